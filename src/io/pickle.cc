#include "io/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "core/check.h"
#include "core/content.h"
#include "core/utf8.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "torch_bin";
constexpr int kMaxProtocol = 4;

using Kind = PickleValue::Kind;
using Values = std::vector<PickleValue>;

// Opcodes by their names in Python's pickletools.
enum Opcode : std::uint8_t {
  kMark = '(',
  kStop = '.',
  kNone = 'N',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kBinFloat = 'G',
  kBinUnicode = 'X',
  kEmptyTuple = ')',
  kTuple = 't',
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kEmptyDict = '}',
  kSetItem = 's',
  kSetItems = 'u',
  kGlobal = 'c',
  kReduce = 'R',
  kBuild = 'b',
  kBinPersId = 'Q',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

// Those that a refusal should call by name, because they run code.
std::string opcode_name(std::uint8_t opcode) {
  std::string_view name = "opcode";
  switch (opcode) {
    case 'i': name = "INST"; break;
    case 'o': name = "OBJ"; break;
    case 'P': name = "PERSID"; break;
    case 0x81: name = "NEWOBJ"; break;
    case 0x82: name = "EXT1"; break;
    case 0x83: name = "EXT2"; break;
    case 0x84: name = "EXT4"; break;
    case 0x92: name = "NEWOBJ_EX"; break;
    default: break;
  }
  constexpr char kDigits[] = "0123456789abcdef";
  return join(name, " 0x", kDigits[opcode >> 4], kDigits[opcode & 15]);
}

class Machine {
 public:
  Machine(const std::string& name, std::span<const std::byte> pickle, PickleHost& host, PickleArena& arena)
      : name_(name), pickle_(pickle), host_(host), arena_(arena) {}

  PickleValue run() {
    for (;;) {
      opcode_at_ = at_;
      const auto opcode = read<std::uint8_t>();
      if (opcode == kStop) break;
      if (!scalar(opcode) && !container(opcode) && !memo(opcode) && !outside(opcode)) {
        refuse_value(ErrorCode::kUnsupported, kOp, where(), "only opcodes that build data (no code is run)",
                     opcode_name(opcode));
      }
    }
    return pop();
  }

 private:
  std::string where() const { return join(name_, ": pickle, byte ", opcode_at_); }

  [[noreturn]] void refuse_pickle(std::string_view expected, std::string_view got) const {
    refuse_value(ErrorCode::kCorruptFile, kOp, where(), expected, got);
  }

  // --- bytes of the pickle
  std::span<const std::byte> take(std::uint64_t size) {
    if (size > pickle_.size() - at_)
      refuse_pickle(join(size, " more bytes"), join(pickle_.size() - at_, ", then it ends"));
    at_ += size;
    return pickle_.subspan(at_ - size, size);
  }
  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view read_text(std::uint64_t size) {
    const auto bytes = take(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string_view read_line() {
    const std::size_t begin = at_;
    while (read<char>() != '\n') continue;
    return {reinterpret_cast<const char*>(pickle_.data()) + begin, at_ - begin - 1};
  }

  // --- stack
  void push(PickleValue value) { stack_.push_back(value); }
  void push(Kind kind, std::int64_t integer) {
    PickleValue value;
    value.kind = kind;
    value.integer = integer;
    push(value);
  }
  void push_string(std::string_view text) {
    if (!is_valid_utf8(text)) refuse_pickle("strings in UTF-8", printable(text));
    PickleValue value;
    value.kind = Kind::kString;
    value.text = text;
    push(value);
  }
  void push_container(Kind kind, Values items) {
    PickleValue value;
    value.kind = kind;
    value.items = arena_.make();
    *value.items = std::move(items);
    push(value);
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue& top() {
    if (stack_.size() <= floor()) refuse_pickle("a value on the stack", "none");
    return stack_.back();
  }
  PickleValue pop() {
    const PickleValue value = top();
    stack_.pop_back();
    return value;
  }
  Values pop_count(std::size_t count) {
    if (stack_.size() - floor() < count) refuse_pickle(join(count, " values on the stack"), "fewer");
    Values values(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return values;
  }
  Values pop_to_mark() {
    if (marks_.empty()) refuse_pickle("a mark on the stack", "none");
    Values values = pop_count(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }
  PickleValue& container_on_top(Kind kind) {
    PickleValue& value = top();
    if (value.kind != kind) refuse_pickle(pickle_kind_name(kind), pickle_kind_name(value.kind));
    return value;
  }

  // --- opcodes; false: not of this group
  bool scalar(std::uint8_t opcode) {
    switch (opcode) {
      case kNone: push(PickleValue{}); return true;
      case kNewTrue: push(Kind::kBool, 1); return true;
      case kNewFalse: push(Kind::kBool, 0); return true;
      case kBinInt: push(Kind::kInt, read<std::int32_t>()); return true;
      case kBinInt1: push(Kind::kInt, read<std::uint8_t>()); return true;
      case kBinInt2: push(Kind::kInt, read<std::uint16_t>()); return true;
      case kLong1: push(Kind::kInt, read_long()); return true;
      case kBinFloat: push_float(); return true;
      case kBinUnicode: push_string(read_text(read<std::uint32_t>())); return true;
      case kShortBinUnicode: push_string(read_text(read<std::uint8_t>())); return true;
      default: return false;
    }
  }

  // Little-endian two's complement of any length; ours must fit into 64 bits.
  std::int64_t read_long() {
    const auto size = read<std::uint8_t>();
    if (size > 8) refuse_pickle("integers of at most 8 bytes", join(static_cast<int>(size)));
    const auto bytes = take(size);
    std::uint64_t value = size > 0 && (bytes.back() & std::byte{0x80}) != std::byte{0} ? ~std::uint64_t{0} : 0;
    for (std::size_t i = size; i-- > 0;) value = (value << 8) | static_cast<std::uint64_t>(bytes[i]);
    return static_cast<std::int64_t>(value);
  }

  void push_float() {  // big endian
    std::uint64_t bits = 0;
    for (const std::byte byte : take(8)) bits = (bits << 8) | static_cast<std::uint64_t>(byte);
    PickleValue value;
    value.kind = Kind::kFloat;
    value.number = std::bit_cast<double>(bits);
    push(value);
  }

  bool container(std::uint8_t opcode) {
    switch (opcode) {
      case kMark: marks_.push_back(stack_.size()); return true;
      case kEmptyTuple: push_container(Kind::kTuple, {}); return true;
      case kTuple: push_container(Kind::kTuple, pop_to_mark()); return true;
      case kTuple1: push_container(Kind::kTuple, pop_count(1)); return true;
      case kTuple2: push_container(Kind::kTuple, pop_count(2)); return true;
      case kTuple3: push_container(Kind::kTuple, pop_count(3)); return true;
      case kEmptyList: push_container(Kind::kList, {}); return true;
      case kAppend: extend(Kind::kList, pop_count(1)); return true;
      case kAppends: extend(Kind::kList, pop_to_mark()); return true;
      case kEmptyDict: push_container(Kind::kDict, {}); return true;
      case kSetItem: extend(Kind::kDict, pop_count(2)); return true;
      case kSetItems: extend(Kind::kDict, pop_to_mark()); return true;
      default: return false;
    }
  }

  void extend(Kind kind, const Values& values) {
    if (kind == Kind::kDict && values.size() % 2 != 0) refuse_pickle("keys and values in pairs", "one alone");
    Values& items = *container_on_top(kind).items;
    items.insert(items.end(), values.begin(), values.end());
  }

  bool memo(std::uint8_t opcode) {
    switch (opcode) {
      case kBinPut: memo_[read<std::uint8_t>()] = top(); return true;
      case kLongBinPut: memo_[read<std::uint32_t>()] = top(); return true;
      case kMemoize: memo_[static_cast<std::uint32_t>(memo_.size())] = top(); return true;
      case kBinGet: push(remembered(read<std::uint8_t>())); return true;
      case kLongBinGet: push(remembered(read<std::uint32_t>())); return true;
      default: return false;
    }
  }

  PickleValue remembered(std::uint32_t index) const {
    const auto found = memo_.find(index);
    if (found == memo_.end()) refuse_pickle("a value that was put into the memo", join("none at ", index));
    return found->second;
  }

  bool outside(std::uint8_t opcode) {
    switch (opcode) {
      case kProto: check_protocol(read<std::uint8_t>()); return true;
      case kFrame: take(8); return true;  // a length, for readers of streams
      case kGlobal: push_global(); return true;
      case kStackGlobal: push_stack_global(); return true;
      case kReduce: reduce(); return true;
      case kBuild: build(); return true;
      case kBinPersId: push(host_.persistent(pop())); return true;
      default: return false;
    }
  }

  void check_protocol(int protocol) const {
    if (protocol >= 2 && protocol <= kMaxProtocol) return;
    refuse_value(ErrorCode::kUnsupported, kOp, where(), join("protocol 2 to ", kMaxProtocol), join(protocol));
  }

  void push_global() {
    const std::string_view module = read_line();
    push(host_.global(module, read_line()));
  }

  void push_stack_global() {
    const Values names = pop_count(2);
    if (names[0].kind != Kind::kString || names[1].kind != Kind::kString)
      refuse_pickle("a module and a name",
                    join(pickle_kind_name(names[0].kind), " and ", pickle_kind_name(names[1].kind)));
    push(host_.global(names[0].text, names[1].text));
  }

  void reduce() {
    const PickleValue arguments = pop(), function = pop();
    if (function.kind != Kind::kGlobal) refuse_pickle("a known name to call", pickle_kind_name(function.kind));
    if (arguments.kind != Kind::kTuple) refuse_pickle("arguments in a tuple", pickle_kind_name(arguments.kind));
    push(host_.call(function, *arguments.items));
  }

  // Attributes of an object. torch hangs _metadata, versions of modules, on the dict; nothing of it is needed.
  void build() {
    const PickleValue attributes = pop();
    if (attributes.kind != Kind::kDict) refuse_pickle("attributes in a dict", pickle_kind_name(attributes.kind));
    container_on_top(Kind::kDict);
  }

  const std::string& name_;
  std::span<const std::byte> pickle_;
  PickleHost& host_;
  PickleArena& arena_;
  std::size_t at_ = 0, opcode_at_ = 0;
  Values stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::unordered_map<std::uint32_t, PickleValue> memo_;
};

}  // namespace

std::string_view pickle_kind_name(Kind kind) {
  switch (kind) {
    case Kind::kNone: return "None";
    case Kind::kBool: return "a bool";
    case Kind::kInt: return "an integer";
    case Kind::kFloat: return "a float";
    case Kind::kString: return "a string";
    case Kind::kTuple: return "a tuple";
    case Kind::kList: return "a list";
    case Kind::kDict: return "a dict";
    case Kind::kGlobal: return "a class or function";
    case Kind::kObject: return "a tensor or storage";
  }
  return "?";
}

PickleValue run_pickle(const std::string& name, std::span<const std::byte> pickle, PickleHost& host,
                       PickleArena& arena) {
  return Machine(name, pickle, host, arena).run();
}

}  // namespace coluber
