// A machine for the pickles that torch.save writes: data only.
//
// It knows the opcodes that build None, bools, integers, floats, strings, tuples, lists and dicts, and calls a Host for
// the three that reach out: a global name (GLOBAL), a call (REDUCE) and a reference to a storage (BINPERSID). The host
// answers from fixed lists. Everything else is refused with the opcode's name. All containers belong to one arena, so a
// list that holds itself is no leak, and values are small and trivially copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coluber {

struct PickleValue {
  enum class Kind : std::uint8_t { kNone, kBool, kInt, kFloat, kString, kTuple, kList, kDict, kGlobal, kObject };

  Kind kind = Kind::kNone;
  std::int64_t integer = 0;                   // kBool, kInt; the host's number of a kGlobal or kObject
  double number = 0;                          // kFloat
  std::string_view text;                      // kString: UTF-8, points into the pickle
  std::vector<PickleValue>* items = nullptr;  // kTuple, kList; kDict: key, value, key, value, ...
};

// "an integer", "a dict", ...
std::string_view pickle_kind_name(PickleValue::Kind kind);

// Owns the containers.
class PickleArena {
 public:
  std::vector<PickleValue>* make() { return &containers_.emplace_back(); }

 private:
  std::deque<std::vector<PickleValue>> containers_;
};

class PickleHost {
 public:
  virtual ~PickleHost() = default;
  virtual PickleValue global(std::string_view module, std::string_view name) = 0;
  virtual PickleValue persistent(const PickleValue& id) = 0;
  virtual PickleValue call(const PickleValue& function, const std::vector<PickleValue>& arguments) = 0;
};

// The value that the pickle leaves; it is valid as long as `pickle` and `arena` are. Throws kCorruptFile for pickles
// that are cut or make no sense, and kUnsupported for opcodes outside the list. `name` opens the sentence of a refusal.
PickleValue run_pickle(const std::string& name, std::span<const std::byte> pickle, PickleHost& host,
                       PickleArena& arena);

}  // namespace coluber
