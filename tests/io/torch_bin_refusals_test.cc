// Bad .bin files: hostile pickles, archives that lie, cut ones.
#include "io/torch_bin.h"
#include "tests/io/torch_files.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

constexpr ErrorCode kCorrupt = ErrorCode::kCorruptFile, kNever = ErrorCode::kUnsupported;

RefusalCase bad_bytes(const char* name, ErrorCode code, std::vector<std::string> words, std::string bytes) {
  words.emplace_back("m.bin");
  return {name, code, std::move(words), [bytes = std::move(bytes)] { parse(bytes); }};
}
RefusalCase bad_pickle(const char* name, ErrorCode code, std::vector<std::string> words, const std::string& pickle) {
  return bad_bytes(name, code, std::move(words), torch_file(pickle));
}
RefusalCase bad_tensor(const char* name, ErrorCode code, std::vector<std::string> words, const TensorSpec& spec) {
  return bad_pickle(name, code, std::move(words), state_dict(tensor(spec)));
}

// Pickles that would run something.
std::vector<RefusalCase> hostile_pickles() {
  const auto call = [](const std::string& module, const std::string& name) {
    return proto() + global(module, name) + tuple(text("touch /tmp/owned")) + "R.";
  };
  const std::string word = std::string("\x8c\x05") + "posix" + "\x8c\x06" + "system";
  return {
      bad_pickle("OsSystem", kNever, {"os.system", "no code is run"}, call("os", "system")),
      bad_pickle("PosixSystem", kNever, {"posix.system"}, call("posix", "system")),
      bad_pickle("Eval", kNever, {"builtins.eval"}, call("builtins", "eval")),
      bad_pickle("TorchLoad", kNever, {"torch.load"}, call("torch", "load")),
      bad_pickle("NestedName", kNever, {"collections.OrderedDict.fromkeys"},
                 call("collections", "OrderedDict.fromkeys")),
      bad_pickle("SubprocessByStackGlobal", kNever, {"posix.system"}, proto(4) + word + "\x93" + tuple("") + "R."),
      bad_pickle("InsideATensor", kNever, {"builtins.exec"},
                 state_dict(global("builtins", "exec") + tuple(text("x")) + "R")),
      bad_pickle("Inst", kNever, {"INST 0x69"}, proto() + "(" + text("x") + "ios\nsystem\n."),
      bad_pickle("Obj", kNever, {"OBJ 0x6f"}, proto() + "(" + ordered_dict() + "o."),
      bad_pickle("NewObj", kNever, {"NEWOBJ 0x81"}, proto() + global("collections", "OrderedDict") + ")\x81."),
      bad_pickle("Extension", kNever, {"EXT1 0x82"}, proto() + "\x82\x01."),
      bad_pickle("PersIdOfText", kNever, {"PERSID"}, proto() + "Pabc\n."),
      bad_pickle("CallOfADtype", kNever, {"torch.float32"}, proto() + global("torch", "float32") + ")R."),
      bad_pickle("CallOfAString", kCorrupt, {"a known name to call", "a string"}, proto() + text("os.system") + ")R."),
      bad_pickle("AttributesOfAClass", kCorrupt, {"a dict", "a class"},
                 proto() + global("torch", "FloatStorage") + "}b."),
      bad_pickle("AttributesOfATensor", kCorrupt, {"a dict", "a tensor"}, state_dict(tensor() + "}b")),
      bad_pickle("LongName", kNever, {"..."}, proto() + global("os", std::string(100'000, 'a')) + "."),
      bad_pickle("UnprintableName", kNever, {"os.sys??tem"}, proto() + global("os", "sys\x1b\xfftem") + "."),
  };
}

// Pickles that make no sense.
std::vector<RefusalCase> broken_pickles() {
  const std::string whole = state_dict(tensor());
  return {
      bad_pickle("Empty", kCorrupt, {"byte 0", "then it ends"}, ""),
      bad_pickle("CutInAString", kCorrupt, {"then it ends"}, whole.substr(0, 8)),
      bad_pickle("WithoutStop", kCorrupt, {"then it ends"}, whole.substr(0, whole.size() - 1)),
      bad_pickle("CutInAName", kCorrupt, {"then it ends"}, proto() + "ccollections"),
      bad_pickle("StringBeyondTheEnd", kCorrupt, {"4294967295 more bytes"}, proto() + "X\xff\xff\xff\xff."),
      bad_pickle("StackEmpty", kCorrupt, {"a value on the stack"}, proto() + "."),
      bad_pickle("PopBelowAMark", kCorrupt, {"2 values on the stack"}, proto() + "}(s."),
      bad_pickle("NoMark", kCorrupt, {"a mark"}, proto() + "}u."),
      bad_pickle("OddItems", kCorrupt, {"pairs"}, proto() + "}(" + text("w") + "u."),
      bad_pickle("ItemsOfAList", kCorrupt, {"a dict", "a list"}, proto() + "](" + text("w") + text("w") + "u."),
      bad_pickle("MemoEmpty", kCorrupt, {"memo", "none at 7"}, proto() + "h\x07."),
      bad_pickle("LongInteger", kCorrupt, {"at most 8 bytes", "200"},
                 proto() + "\x8a\xc8" + std::string(200, 'x') + "."),
      bad_pickle("StringNotUtf8", kCorrupt, {"UTF-8"}, proto() + text("\xc0\x80") + "."),
      bad_pickle("ProtocolFive", kNever, {"protocol 2 to 4", "5"}, proto(5) + "}."),
      bad_pickle("ProtocolZero", kNever, {"opcode 0x64"}, "(dp0\n."),
      bad_pickle("NotADict", kNever, {"state_dict", "an integer"}, proto() + number(3) + "."),
      bad_pickle("KeyIsANumber", kNever, {"key", "an integer"}, proto() + "}" + number(1) + tensor() + "s."),
      bad_pickle("ValueIsANumber", kNever, {"entry w", "a tensor", "an integer"}, state_dict(number(1))),
      bad_pickle("ValueIsADict", kNever, {"entry w", "state_dict alone"}, state_dict("}")),
      bad_pickle("ValueIsAStorage", kNever, {"entry w"}, state_dict(reference({}))),
      bad_pickle("ListThatHoldsItself", kNever, {"entry w", "a list"}, state_dict(std::string("]q\x01h\x01") + "a")),
      bad_pickle("NameTwice", kCorrupt, {"entry w", "two"},
                 proto() + "}(" + text("w") + tensor() + text("w") + tensor() + "u."),
  };
}

TensorSpec spec(const std::function<void(TensorSpec&)>& change) {
  TensorSpec result;
  change(result);
  return result;
}

std::vector<RefusalCase> bad_torch_tensors() {
  const std::string far = "\x8a\x08" + le(std::int64_t{1} << 61);
  return {
      bad_tensor("OffsetBeyond", kCorrupt, {"elements 0 to 5", "offset 1"},
                 spec([](auto& s) { s.offset = number(1); })),
      bad_tensor("OffsetNegative", kCorrupt, {"offset", "-1"}, spec([](auto& s) { s.offset = number(-1); })),
      bad_tensor("OffsetOverflows", kCorrupt, {"elements 0 to 5"},
                 spec([&](auto& s) { s.offset = "\x8a\x08" + le(std::numeric_limits<std::int64_t>::max()); })),
      bad_tensor("SizeBeyond", kCorrupt, {"(3, 3)"}, spec([](auto& s) {
                   s.size = numbers({3, 3});
                 })),
      bad_tensor("SizeNegative", kCorrupt, {"size", "-2"}, spec([](auto& s) {
                   s.size = numbers({-2, 3});
                 })),
      bad_tensor("SizeIsAString", kCorrupt, {"size", "a string"}, spec([](auto& s) { s.size = tuple(text("2")); })),
      bad_tensor("SizeIsAList", kCorrupt, {"a tuple", "a list"}, spec([](auto& s) { s.size = "]"; })),
      bad_tensor("SizeOverflows", kCorrupt, {"2^60"}, spec([&](auto& s) { s.size = tuple(far + far); })),
      bad_tensor("SizeOfSevenAxes", kNever, {"at most 6 axes"}, spec([](auto& s) {
                   s.size = numbers({1, 1, 1, 1, 1, 1, 1});
                 })),
      bad_tensor("StrideBeyond", kCorrupt, {"strides (4, 1)"}, spec([](auto& s) {
                   s.stride = numbers({4, 1});
                 })),
      bad_tensor("StrideNegative", kCorrupt, {"stride", "-1"}, spec([](auto& s) {
                   s.stride = numbers({-1, 1});
                 })),
      bad_tensor("StrideOverflows", kCorrupt, {"strides"}, spec([&](auto& s) { s.stride = tuple(far + far); })),
      bad_tensor("StridesTooFew", kCorrupt, {"as many strides"}, spec([](auto& s) { s.stride = numbers({1}); })),
      bad_tensor("RepeatsWithoutEnd", kCorrupt, {"repeat"}, spec([](auto& s) {
                   s.size = numbers({2'000'000'000, 3}), s.stride = numbers({0, 1});
                 })),
      bad_tensor("StorageTooShort", kCorrupt, {"storage 0", "7 elements of 4 bytes", "24 bytes"},
                 spec([](auto& s) { s.count = 7; })),
      bad_tensor("StorageCountNegative", kCorrupt, {"storage 0"}, spec([](auto& s) { s.count = -1; })),
      bad_tensor("StorageMissing", kCorrupt, {"data/9"}, spec([](auto& s) { s.key = "9"; })),
      bad_tensor("StorageOutsideTheArchive", kCorrupt, {"../../etc/passwd"},
                 spec([](auto& s) { s.key = "../../etc/passwd"; })),
      bad_tensor("StorageOfAnotherDtype", kNever, {"torch.ComplexFloatStorage", "dtype"},
                 spec([](auto& s) { s.storage_class = global("torch", "ComplexFloatStorage"); })),
      bad_tensor("StorageClassIsADict", kCorrupt, {"class of a storage", "OrderedDict"},
                 spec([](auto& s) { s.storage_class = global("collections", "OrderedDict"); })),
      bad_tensor("StorageClassIsAString", kCorrupt, {"reference"},
                 spec([](auto& s) { s.storage_class = text("FloatStorage"); })),
      bad_tensor("TooManyArguments", kCorrupt, {"6 or 7 arguments", "8"}, spec([](auto& s) { s.tail = "NN"; })),
      bad_tensor("DtypeMissing", kCorrupt, {"7 or 8 arguments"},
                 spec([](auto& s) { s.function = global("torch._utils", "_rebuild_tensor_v3"); })),
      bad_tensor("DtypeIsAString", kCorrupt, {"a dtype", "a string"}, spec([](auto& s) {
                   s.function = global("torch._utils", "_rebuild_tensor_v3"), s.tail = text("f32");
                 })),
      bad_pickle("ReferenceIsShort", kCorrupt, {"reference"}, state_dict(tuple(text("storage")) + "Q")),
      bad_pickle("TensorOfADict", kCorrupt, {"a storage"},
                 state_dict(global("torch._utils", "_rebuild_tensor_v2") + tuple("}" + number(0) + "))\x89}") + "R")),
      bad_pickle("ParameterOfNothing", kCorrupt, {"_rebuild_parameter"},
                 state_dict(global("torch._utils", "_rebuild_parameter") + ")R")),
      bad_pickle("OrderedDictOfSomething", kCorrupt, {"OrderedDict"},
                 state_dict(global("collections", "OrderedDict") + tuple(number(1)) + "R")),
  };
}

std::string changed(std::string bytes, std::size_t at, const std::string& other) {
  return bytes.replace(at, other.size(), other);
}

std::vector<RefusalCase> bad_archives() {
  const std::string good = torch_file(state_dict(tensor()));
  const std::size_t end = good.rfind("PK\x05\x06"), list = good.find("PK\x01\x02");
  const std::string wide = zip_of({{"m/data.pkl", state_dict(tensor())}, {"m/data/0", six_floats()}}, 0);
  const std::size_t end64 = wide.find("PK\x06\x06"), locator = wide.find("PK\x06\x07");
  return {
      bad_bytes("Cut", kCorrupt, {"interrupted"}, good.substr(0, good.size() / 2)),
      bad_bytes("CutByOneByte", kCorrupt, {"end of the file"}, good.substr(0, good.size() - 1)),
      bad_bytes("ListBeyondTheEnd", kCorrupt, {"list of records"}, changed(good, end + 16, le(0x7fffffffu))),
      bad_bytes("ListTooLong", kCorrupt, {"list of records"}, changed(good, end + 12, le(0x7fffffffu))),
      bad_bytes("MoreRecordsThanListed", kCorrupt, {"cut one"}, changed(good, end + 10, le(std::uint16_t{60000}))),
      bad_bytes("ListIsSomethingElse", kCorrupt, {"other bytes"}, changed(good, list, "XXXX")),
      bad_bytes("Compressed", kNever, {"m/data.pkl", "compressed"}, changed(good, list + 10, le(std::uint16_t{8}))),
      bad_bytes("Encrypted", kNever, {"encrypted"}, changed(good, list + 8, le(std::uint16_t{1}))),
      bad_bytes("TwoSizes", kCorrupt, {"m/data.pkl", "stored"}, changed(good, list + 20, le(5u))),
      bad_bytes("RecordBeyondTheList", kCorrupt, {"data before byte"},
                changed(changed(good, list + 20, le(1u << 20)), list + 24, le(1u << 20))),
      bad_bytes("HeaderElsewhere", kCorrupt, {"its header at byte 1000000"}, changed(good, list + 42, le(1'000'000u))),
      bad_bytes("HeaderOfNothing", kCorrupt, {"its header at byte 3"}, changed(good, list + 42, le(3u))),
      bad_bytes("NameInListTooLong", kCorrupt, {"cut one"}, changed(good, list + 28, le(std::uint16_t{60000}))),
      bad_bytes("OtherNameInHeader", kCorrupt, {"same name"}, changed(good, 30, "q")),
      bad_bytes("PickleDamaged", kCorrupt, {"checksum"}, changed(good, 66, "#")),
      bad_bytes("SizeOnlyIn64ButNotThere", kCorrupt, {"zip64 field"}, changed(good, list + 24, le(0xffffffffu))),
      bad_bytes("Zip64WithoutLocator", kCorrupt, {"locator"}, changed(wide, locator, "XXXX")),
      bad_bytes("Zip64LocatorElsewhere", kCorrupt, {"where its locator says"},
                changed(wide, locator + 8, le(~std::uint64_t{0}))),
      bad_bytes("Zip64ListBeyondTheEnd", kCorrupt, {"list of records"},
                changed(wide, end64 + 48, le(~std::uint64_t{0}))),
      bad_bytes("RecordTwice", kCorrupt, {"two"}, zip_of({{"m/data.pkl", "x"}, {"m/data.pkl", "y"}})),
      bad_bytes("NoPickle", kCorrupt, {"data.pkl"}, zip_of({{"m/data/0", "x"}})),
      bad_bytes("PickleTooLarge", kNever, {"data.pkl", "at most"}, zip_of({{"m/data.pkl", std::string(9 << 20, 'N')}})),
      bad_bytes("BigEndian", kNever, {"byte order", "big"}, torch_file(state_dict(tensor()), {{"m/byteorder", "big"}})),
      bad_bytes("BeforeTorch16", kNever, {"before version 1.6"},
                "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."),
      bad_bytes("TarOfTorch0", kNever, {"tar archive"}, std::string(257, '\0') + "ustar" + std::string(600, '\0')),
      bad_bytes("BarePickle", kNever, {"a bare pickle"}, state_dict("N")),
      bad_bytes("Safetensors", kCorrupt, {"safetensors"}, le(std::uint64_t{2}) + "{}"),
      bad_bytes("GitLfsPointerBin", kCorrupt, {"git lfs pull"}, "version https://git-lfs.github.com/spec/v1\n"),
      bad_bytes("OtherBytes", kCorrupt, {"other bytes"}, std::string(100, 'z')),
  };
}

// A record that lies inside another one.
std::string overlapping() {
  const std::string inner = zip_of({{"b", "1234"}});
  std::string bytes = zip_of({{"a", inner}, {"b", "1234"}});
  const std::size_t second = bytes.find("PK\x01\x02", bytes.rfind("PK\x01\x02") - 1);
  return changed(bytes, second + 42, le(static_cast<std::uint32_t>(bytes.find(inner))));
}

std::vector<RefusalCase> bad_torch_other() {
  const Tensor x = Tensor::full({2}, 1, DType::kF32);
  return {
      bad_bytes("OverlappingRecords", kCorrupt, {"overlap"}, overlapping()),
      {"MissingBin", ErrorCode::kNotFound, {"/nowhere.bin"}, [] { read_torch_bin("/nowhere.bin"); }},
      {"WriteNoFolder",
       ErrorCode::kIo,
       {"/nowhere/a.bin"},
       [x] {
         write_torch_bin("/nowhere/a.bin", {{"w", x}});
       }},
      {"WriteUndefined",
       ErrorCode::kInvalidArgument,
       {"tensor w"},
       [] {
         write_torch_bin("/tmp/never", {{"w", Tensor()}});
       }},
      {"WriteNameNotUtf8",
       ErrorCode::kInvalidArgument,
       {"UTF-8"},
       [x] {
         write_torch_bin("/tmp/never", {{"\xff", x}});
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(HostilePickle, Refusals, ::testing::ValuesIn(hostile_pickles()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BrokenPickle, Refusals, ::testing::ValuesIn(broken_pickles()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadTorchTensor, Refusals, ::testing::ValuesIn(bad_torch_tensors()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadTorchArchive, Refusals, ::testing::ValuesIn(bad_archives()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadTorchOther, Refusals, ::testing::ValuesIn(bad_torch_other()), refusal_name);

}  // namespace
}  // namespace coluber::testing
