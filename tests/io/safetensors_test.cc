#include "io/safetensors.h"

#include <memory>
#include <span>

#include "core/json.h"
#include "tests/support/files.h"
#include "tests/support/refusals.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

std::string file_of(const std::string& header, const std::string& data = {}) {
  return le(static_cast<std::uint64_t>(header.size())) + header + data;
}

// The tensors are views of the bytes and keep them.
SafetensorsFile parse(std::string bytes) {
  const auto owner = std::make_shared<std::string>(std::move(bytes));
  return SafetensorsFile::parse(std::as_bytes(std::span(*owner)), "m.safetensors", owner);
}

TensorMap all_dtypes() {
  TensorMap tensors;
  std::uint64_t seed = 1;
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8}) {
    tensors.emplace(join("t.", dtype_name(dtype)), random_tensor({3, 5}, DType::kF64, seed++, 100).to(dtype));
  }
  tensors.emplace("scalar", Tensor::full({}, 2.5, DType::kF32));
  tensors.emplace("empty", Tensor::empty({0, 7}, DType::kBF16));
  tensors.emplace("six axes", random_tensor({1, 2, 1, 3, 1, 2}, DType::kF32, 9));
  tensors.emplace("na\"me\n\xc3\xa9", Tensor::full({1}, 1, DType::kU8));
  return tensors;
}

void expect_same(const TensorMap& got, const TensorMap& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_EQ(got.count(name), 1u) << name;
    EXPECT_TRUE(same_bits(got.at(name), tensor)) << name;
  }
}

TEST(Safetensors, RoundTripOfAllDtypesShapesAndNames) {
  const TemporaryFolder folder;
  const StringMap metadata = {{"format", "pt"}, {"with \"quotes\"", "and\nlines"}};
  write_safetensors(folder / "a.safetensors", all_dtypes(), metadata);
  const SafetensorsFile file = SafetensorsFile::open(folder / "a.safetensors");
  expect_same(file.tensors(), all_dtypes());
  EXPECT_EQ(file.metadata(), metadata);
}

TEST(Safetensors, WritesStridedTensorsAsTheyRead) {
  const TemporaryFolder folder;
  const Tensor x = random_tensor({4, 6}, DType::kF32, 3);
  write_safetensors(folder / "a",
                    {{"t", x.transpose(0, 1)}, {"row", x.select(1, 2)}, {"wide", x.slice(0, 1, 2).expand(0, 3)}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  expect_same(file.tensors(), {{"t", x.transpose(0, 1).contiguous()},
                               {"row", x.select(1, 2).contiguous()},
                               {"wide", x.slice(0, 1, 2).expand(0, 3).contiguous()}});
}

// Nothing is copied, and the mapping outlives file and handle.
TEST(Safetensors, TensorsPointIntoTheFile) {
  const TemporaryFolder folder;
  const Tensor large = random_tensor({100, 100}, DType::kF32, 5);
  write_safetensors(folder / "a", {{"x", large}, {"y", Tensor::full({3}, 1, DType::kBF16)}});
  Tensor x, y;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    x = file.tensors().at("x");
    y = file.tensors().at("y");
  }
  std::filesystem::remove(folder / "a");
  EXPECT_EQ(static_cast<const char*>(y.raw()) - static_cast<const char*>(x.raw()), 40000);
  EXPECT_TRUE(same_bits(x, large));
}

TEST(Safetensors, EveryTensorIsAlignedInFilesThatWeWrite) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", all_dtypes());
  const std::string bytes = read_bytes(folder / "a");
  EXPECT_EQ(bytes.find('{'), 8u);
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  const auto* first = static_cast<const char*>(file.tensors().at("t.f64").raw());
  for (const auto& [name, tensor] : file.tensors()) {
    if (tensor.numel() == 0) continue;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.raw()) % static_cast<std::uintptr_t>(dtype_size(tensor.dtype())),
              0u);
    EXPECT_LT(std::abs(static_cast<const char*>(tensor.raw()) - first), 4096) << name;  // not a copy
  }
}

TEST(Safetensors, MisalignedDataIsCopied) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  for (std::size_t shift = 0; shift < 8; ++shift) {  // whatever the address of the buffer
    const std::string bytes = file_of(header + std::string(shift, ' '), "x" + le(1.5f) + le(-2.0f));
    const Tensor b = parse(bytes).tensors().at("b");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.raw()) % 4, 0u);
    EXPECT_EQ(b.at({0}), 1.5);
    EXPECT_EQ(b.at({1}), -2.0);
  }
}

TEST(Safetensors, NoTensorsAndNoMetadata) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  EXPECT_TRUE(SafetensorsFile::open(folder / "a").tensors().empty());
  EXPECT_EQ(std::filesystem::file_size(folder / "a"), 16u);  // length, "{}", six spaces
}

TEST(Safetensors, GoldensAreReadWhole) {
  for (const char* name :
       {"norm", "causal_conv1d", "selective_scan", "mamba1_block", "training_trace", "lm_transformers"}) {
    const SafetensorsFile file = SafetensorsFile::open(golden_path(join(name, ".safetensors")));
    EXPECT_EQ(file.metadata().at("format"), "goldens/1");
    EXPECT_GT(file.tensors().size(), 5u);
  }
}

TEST(SafetensorsShards, SplitIndexAndReadBack) {
  const TemporaryFolder folder;
  const TensorMap tensors = all_dtypes();
  const auto names = write_safetensors_sharded(folder.path(), tensors, 100, {{"format", "pt"}});
  ASSERT_GT(names.size(), 3u);
  EXPECT_EQ(names.back(), "model.safetensors.index.json");
  EXPECT_EQ(names.front(), join("model-00001-of-0000", names.size() - 1, ".safetensors"));
  EXPECT_EQ(folder.num_files(), names.size());
  const Json index = read_json_file("test", folder / names.back());
  TensorMap read;
  std::int64_t total = 0;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const SafetensorsFile file = SafetensorsFile::open(folder / shard.get<std::string>());
    read.emplace(tensor, file.tensors().at(tensor));
    total += read[tensor].size_bytes();
    EXPECT_EQ(file.metadata().at("format"), "pt");
  }
  EXPECT_EQ(index["metadata"]["total_size"], total);
  expect_same(read, tensors);
}

TEST(SafetensorsShards, ASaveReplacesWeightsOfAnEarlierOne) {
  const TemporaryFolder folder;
  write_bytes(folder / "model-of-mine.safetensors", "stays");
  const auto many = write_safetensors_sharded(folder.path(), all_dtypes(), 100);
  const auto fewer = write_safetensors_sharded(folder.path(), all_dtypes(), 200);
  ASSERT_LT(fewer.size(), many.size());
  EXPECT_EQ(folder.num_files(), fewer.size() + 1);
  EXPECT_EQ(write_safetensors_sharded(folder.path(), all_dtypes(), 200), fewer);  // over itself
  const auto one = write_safetensors_sharded(folder.path(), all_dtypes(), 1 << 20);
  EXPECT_EQ(one, std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(folder.num_files(), 2u);
  write_safetensors_sharded(folder.path(), all_dtypes(), 200);
  EXPECT_EQ(folder.num_files(), fewer.size() + 1);
}

// --- bad input -------------------------------------------------------------------------------------------------------
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return join("\"", name, "\":{\"dtype\":", dtype, ",\"shape\":", shape, ",\"data_offsets\":", offsets, "}");
}
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t data) {
  return file_of("{" + entry("w", dtype, shape, offsets) + "}", std::string(data, 'x'));
}

RefusalCase bad_file(const char* name, ErrorCode code, std::vector<std::string> words, std::string bytes) {
  words.emplace_back("m.safetensors");
  return {name, code, std::move(words), [bytes = std::move(bytes)] { parse(bytes); }};
}

std::vector<RefusalCase> bad_headers() {
  const ErrorCode corrupt = ErrorCode::kCorruptFile;
  const std::string good = one("\"F32\"", "[2]", "[0,8]", 8);
  return {
      bad_file("SevenBytes", corrupt, {"at least 8", "7"}, "1234567"),
      bad_file("HeaderBeyondFile", corrupt, {"1000", "2 in the file"}, le(std::uint64_t{1000}) + "{}"),
      bad_file("HeaderCutByOne", corrupt, {"header"}, good.substr(0, good.size() - 9)),
      bad_file("HeaderTooLarge", corrupt, {"100000000", "100000001"}, le(std::uint64_t{100'000'001}) + "{}"),
      bad_file("HeaderLengthOfAllOnes", corrupt, {"18446744073709551615"}, le(~std::uint64_t{0}) + "{}"),
      bad_file("GitLfsPointer", corrupt, {"git lfs pull"},
               "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
      bad_file("HtmlPage", corrupt, {"HTML"}, "<!DOCTYPE html><html></html>"),
      bad_file("ZipArchive", corrupt, {"zip archive"}, "PK\x03\x04 and what follows"),
      bad_file("HeaderIsNoJson", corrupt, {"header", "line 1, column 3"}, file_of("{not json}")),
      bad_file("HeaderIsCut", corrupt, {"header", "line 1"}, file_of("{\"w\":{\"dtype\":\"F32\",")),
      bad_file("HeaderIsEmpty", corrupt, {"header"}, file_of("")),
      bad_file("HeaderIsAList", corrupt, {"JSON object", "[]"}, file_of("[]")),
      bad_file("HeaderIsDeep", corrupt, {"deeper"}, file_of(std::string(100'000, '['))),
      bad_file(
          "TensorTwice", corrupt, {"\"w\" is there twice"},
          file_of("{" + entry("w", "\"U8\"", "[1]", "[0,1]") + "," + entry("w", "\"U8\"", "[1]", "[1,2]") + "}", "xx")),
      bad_file("KeyTwice", corrupt, {"\"dtype\" is there twice"},
               file_of(R"({"w":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}})", "x")),
      bad_file("MetadataNotAnObject", corrupt, {"__metadata__"}, file_of(R"({"__metadata__":3})")),
      bad_file("MetadataNotStrings", corrupt, {"__metadata__: a", "a string", "1"},
               file_of(R"({"__metadata__":{"a":1}})")),
      bad_file("TensorIsANumber", corrupt, {"tensor w", "an object", "5"}, file_of(R"({"w":5})")),
      bad_file("NoDtype", corrupt, {"tensor w", "dtype"}, file_of(R"({"w":{"shape":[],"data_offsets":[0,0]}})")),
      bad_file("NoShape", corrupt, {"shape"}, file_of(R"({"w":{"dtype":"F32","data_offsets":[0,0]}})")),
      bad_file("NoOffsets", corrupt, {"data_offsets"}, file_of(R"({"w":{"dtype":"F32","shape":[]}})")),
  };
}

std::vector<RefusalCase> bad_tensors() {
  const ErrorCode corrupt = ErrorCode::kCorruptFile;
  return {
      bad_file("UnknownDtype", corrupt, {"dtype", "F32", "float"}, one("\"float\"", "[2]", "[0,8]", 8)),
      bad_file("DtypeOfTheFormatButNotOurs", ErrorCode::kUnsupported, {"BOOL", "F32"},
               one("\"BOOL\"", "[8]", "[0,8]", 8)),
      bad_file("DtypeIsANumber", corrupt, {"dtype", "a string", "32"}, one("32", "[2]", "[0,8]", 8)),
      bad_file("WrongDtypeForTheBytes", corrupt, {"16 bytes", "(2) f64", "got 8"}, one("\"F64\"", "[2]", "[0,8]", 8)),
      bad_file("ShapeIsAString", corrupt, {"shape", "a list"}, one("\"F32\"", "\"2\"", "[0,8]", 8)),
      bad_file("NegativeExtent", corrupt, {"shape", "-2"}, one("\"F32\"", "[-2]", "[0,8]", 8)),
      bad_file("FractionalExtent", corrupt, {"shape", "2.5"}, one("\"F32\"", "[2.5]", "[0,8]", 8)),
      bad_file("ExtentBeyondInt64", corrupt, {"9223372036854775808"},
               one("\"F32\"", "[9223372036854775808]", "[0,8]", 8)),
      bad_file("ShapeOverflows", corrupt, {"2^63"}, one("\"F32\"", "[4294967296,4294967296]", "[0,0]", 0)),
      bad_file("ShapeOverflowsBehindZero", corrupt, {"2^63"},
               one("\"F32\"", "[0,4294967296,4294967296,4294967296]", "[0,0]", 0)),
      bad_file("SevenAxes", ErrorCode::kUnsupported, {"at most 6 axes", "7"},
               one("\"U8\"", "[1,1,1,1,1,1,1]", "[0,1]", 1)),
      bad_file("OffsetsBackwards", corrupt, {"begin <= end", "[8,0]"}, one("\"F32\"", "[2]", "[8,0]", 8)),
      bad_file("OffsetsNegative", corrupt, {"-8"}, one("\"F32\"", "[2]", "[-8,0]", 8)),
      bad_file("OffsetsAreThree", corrupt, {"[begin, end]"}, one("\"F32\"", "[2]", "[0,8,8]", 8)),
      bad_file("OffsetsBeyondTheFile", corrupt, {"at most 4", "8", "interrupted"}, one("\"F32\"", "[2]", "[0,8]", 4)),
      bad_file("OffsetsBeyondInt64", corrupt, {"18446744073709551615"},
               one("\"F32\"", "[2]", "[0,18446744073709551615]", 8)),
      bad_file("TooFewBytesForTheShape", corrupt, {"12 bytes", "(3) f32", "got 8"}, one("\"F32\"", "[3]", "[0,8]", 8)),
      bad_file("BytesBehindTheLastTensor", corrupt, {"8 bytes, as the tensors say", "got 9"},
               one("\"F32\"", "[2]", "[0,8]", 9)),
      bad_file("HoleAtTheStart", corrupt, {"from byte 0", "from byte 8"}, one("\"F32\"", "[2]", "[8,16]", 16)),
      bad_file("HoleBetween", corrupt, {"tensor b", "where a ends", "from byte 2"},
               file_of("{" + entry("a", "\"U8\"", "[1]", "[0,1]") + "," + entry("b", "\"U8\"", "[1]", "[2,3]") + "}",
                       "xxx")),
      bad_file("Overlap", corrupt, {"tensor b", "overlap"},
               file_of("{" + entry("a", "\"U8\"", "[2]", "[0,2]") + "," + entry("b", "\"U8\"", "[2]", "[1,3]") + "}",
                       "xxx")),
      bad_file(
          "SameBytesTwice", corrupt, {"overlap"},
          file_of("{" + entry("a", "\"U8\"", "[2]", "[0,2]") + "," + entry("b", "\"U8\"", "[2]", "[0,2]") + "}", "xx")),
  };
}

std::vector<RefusalCase> bad_safetensors_writes() {
  const ErrorCode invalid = ErrorCode::kInvalidArgument;
  const Tensor x = Tensor::full({2}, 1, DType::kF32);
  const auto write = [](TensorMap tensors, StringMap metadata = {}) {
    return [tensors, metadata] { write_safetensors("/tmp/never-written", tensors, metadata); };
  };
  return {
      {"UndefinedTensor", invalid, {"tensor w"}, write({{"w", Tensor()}})},
      {"ReservedName", invalid, {"__metadata__"}, write({{"__metadata__", x}})},
      {"NameNotUtf8", invalid, {"UTF-8"}, write({{"\xff", x}})},
      {"MetadataNotUtf8", invalid, {"UTF-8"}, write({{"w", x}}, {{"a", "\xff"}})},
      {"NoShardSize",
       invalid,
       {"max_shard_bytes", "0"},
       [x] {
         write_safetensors_sharded("/tmp", {{"w", x}}, 0);
       }},
      {"NoFolder",
       ErrorCode::kIo,
       {"/nowhere/a", "No such file"},
       [x] {
         write_safetensors("/nowhere/a", {{"w", x}});
       }},
      {"MissingFile",
       ErrorCode::kNotFound,
       {"/nowhere.safetensors"},
       [] { SafetensorsFile::open("/nowhere.safetensors"); }},
  };
}

INSTANTIATE_TEST_SUITE_P(BadSafetensorsHeader, Refusals, ::testing::ValuesIn(bad_headers()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadSafetensorsTensor, Refusals, ::testing::ValuesIn(bad_tensors()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadSafetensorsWrite, Refusals, ::testing::ValuesIn(bad_safetensors_writes()), refusal_name);

}  // namespace
}  // namespace coluber::testing
