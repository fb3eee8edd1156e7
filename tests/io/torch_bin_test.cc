#include "io/torch_bin.h"

#include "io/crc32.h"
#include "io/zip_reader.h"
#include "tests/io/torch_files.h"
#include "tests/support/files.h"
#include "tests/support/refusals.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

TEST(Crc32, KnownValues) {
  const auto of = [](std::string_view text) { return crc32(std::as_bytes(std::span(text))); };
  EXPECT_EQ(of(""), 0u);
  EXPECT_EQ(of("123456789"), 0xCBF43926u);  // the check value of the polynomial
  EXPECT_EQ(of("The quick brown fox jumps over the lazy dog"), 0x414FA339u);
}

TEST(Zip, RecordsInMemoryAndAligned) {
  for (const std::uint64_t large : {std::uint64_t{zip::kSee64}, std::uint64_t{100}, std::uint64_t{0}}) {  // zip64 too
    const Records records = {{"a/x", "hello"}, {"a/empty", ""}, {"a/y", std::string(1000, 'y')}};
    const std::string bytes = zip_of(records, large);
    const ZipRecords read = read_zip("a.zip", std::as_bytes(std::span(bytes)));
    ASSERT_EQ(read.size(), 3u);
    for (const auto& [name, content] : records) {
      const auto& record = read.at(name);
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(record.bytes.data()), record.bytes.size()), content);
      EXPECT_EQ(record.crc32, crc32(record.bytes));
      EXPECT_EQ((reinterpret_cast<const char*>(record.bytes.data()) - bytes.data()) % 64, 0) << name;
    }
  }
}

TEST(TorchBin, RoundTripOfAllDtypesAndShapes) {
  const TemporaryFolder folder;
  TensorMap tensors;
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8}) {
    tensors.emplace(join("t.", dtype_name(dtype)), random_tensor({3, 5}, DType::kF64, 4, 100).to(dtype));
  }
  tensors.emplace("scalar", Tensor::full({}, 2.5, DType::kF32));
  tensors.emplace("empty", Tensor::empty({0, 7}, DType::kBF16));
  tensors.emplace("strided", random_tensor({4, 6}, DType::kF32, 3).transpose(0, 1));
  write_torch_bin(folder / "pytorch_model.bin", tensors);
  const TensorMap read = read_torch_bin(folder / "pytorch_model.bin");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bits(read.at(name), tensor)) << name;
}

TEST(TorchBin, SharedMemoryIsWrittenOnceAndSharedAgain) {
  const TemporaryFolder folder;
  const Tensor x = random_tensor({100, 8}, DType::kF32, 1);
  write_torch_bin(folder / "a.bin", {{"embedding", x}, {"head", x}, {"turned", x.reshape({8, 100})}});
  EXPECT_LT(std::filesystem::file_size(folder / "a.bin"), 6000u);
  const TensorMap read = read_torch_bin(folder / "a.bin");
  EXPECT_EQ(read.at("embedding").raw(), read.at("head").raw());
  EXPECT_EQ(read.at("embedding").raw(), read.at("turned").raw());
  EXPECT_TRUE(same_bits(read.at("head"), x));
  EXPECT_TRUE(same_bits(read.at("turned"), x.reshape({8, 100})));
}

TEST(TorchBin, OffsetSizeAndStrideAreHonoured) {
  TensorSpec column;  // elements 1 and 4 of (2,3)
  column.offset = number(1);
  column.size = numbers({2});
  column.stride = numbers({3});
  const Tensor x = parse(torch_file(state_dict(tensor(column)))).at("w");
  EXPECT_EQ(x.shape(), Shape({2}));
  EXPECT_EQ(x.at({0}), 1);
  EXPECT_EQ(x.at({1}), 4);
  TensorSpec turned;
  turned.size = numbers({3, 2});
  turned.stride = numbers({1, 3});
  EXPECT_EQ(parse(torch_file(state_dict(tensor(turned)))).at("w").at({2, 1}), 5);
  TensorSpec repeated;
  repeated.size = numbers({1000, 3});
  repeated.stride = numbers({0, 1});
  EXPECT_EQ(parse(torch_file(state_dict(tensor(repeated)))).at("w").at({999, 2}), 2);
  TensorSpec nothing;
  nothing.size = numbers({0, 3});
  nothing.offset = number(6);
  EXPECT_EQ(parse(torch_file(state_dict(tensor(nothing)))).at("w").numel(), 0);
}

TEST(TorchBin, MisalignedStoragesAreCopied) {
  const std::string bytes = torch_file(state_dict(tensor()));
  for (std::size_t shift = 0; shift < 4; ++shift) {
    std::string buffer(shift, ' ');
    buffer += bytes;
    const auto part = std::as_bytes(std::span(buffer)).subspan(shift);
    const Tensor x = parse_torch_bin(part, "m.bin").at("w");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.raw()) % 4, 0u);
    EXPECT_EQ(x.at({1, 2}), 5);
  }
}

TEST(TorchBin, ParametersUntypedStoragesAndNewerCalls) {
  const std::string parameter =
      global("torch._utils", "_rebuild_parameter") + tuple(tensor() + "\x88" + ordered_dict()) + "R";
  EXPECT_EQ(parse(torch_file(state_dict(parameter))).at("w").at({1, 0}), 3);
  TensorSpec typed;  // torch 2.x, for dtypes without a storage class of their own
  typed.storage_class = global("torch.storage", "UntypedStorage");
  typed.count = 24;
  typed.function = global("torch._utils", "_rebuild_tensor_v3");
  typed.tail = global("torch", "float32");
  const Tensor x = parse(torch_file(state_dict(tensor(typed)))).at("w");
  EXPECT_EQ(x.dtype(), DType::kF32);
  EXPECT_EQ(x.at({1, 2}), 5);
}

// The same dict in protocol 4: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL.
TEST(TorchBin, ProtocolFour) {
  const auto word = [](const std::string& value) {
    return "\x8c" + std::string(1, static_cast<char>(value.size())) + value;
  };
  const std::string reference =
      tuple(word("storage") + word("torch") + word("FloatStorage") + "\x93" + word("0") + word("cpu") + number(6)) +
      "Q";
  const std::string body = "}\x94(" + word("w") + "\x94" + word("torch._utils") + word("_rebuild_tensor_v2") +
                           "\x93\x94" +
                           tuple(reference + "K" + std::string(1, '\0') + "K\x02K\x03\x86K\x03K\x01\x86\x89" +
                                 word("collections") + word("OrderedDict") + "\x93)R") +
                           "R\x94u.";
  const std::string pickle = proto(4) + "\x95" + le(static_cast<std::uint64_t>(body.size())) + body;
  EXPECT_EQ(parse(torch_file(pickle)).at("w").at({1, 2}), 5);
}

TEST(TorchBin, MetadataOnTheDictIsPassedOver) {
  const std::string pickle = proto() + ordered_dict() + "q" + std::string(1, '\0') + "(" + text("w") + tensor() + "u}" +
                             text("_metadata") + ordered_dict() + "sb.";
  EXPECT_EQ(parse(torch_file(pickle)).size(), 1u);
}

TEST(TorchBin, EmptyDict) {
  EXPECT_TRUE(parse(torch_file(proto() + "}.")).empty());
}

}  // namespace
}  // namespace coluber::testing
