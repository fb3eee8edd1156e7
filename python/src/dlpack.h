// The structures of DLPack, https://dmlc.github.io/dlpack/latest/c_api.html, versions 0 and 1: how array libraries hand
// memory to each other. Their layout is an ABI, so they are spelled out here as the specification gives them.
#pragma once

#include <cstdint>

namespace coluber::python::dlpack {

inline constexpr const char* kCapsule = "dltensor";
inline constexpr const char* kVersioned = "dltensor_versioned";

// Streams of CUDA as they are handed over: a cudaStream_t, but for these.
inline constexpr std::intptr_t kLegacyStream = 1, kPerThreadStream = 2, kNoOrder = -1;

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

struct Device {
  std::int32_t type;
  std::int32_t index;
};
struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct Array {
  void* data;
  Device device;
  std::int32_t rank;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major
  std::uint64_t byte_offset;
};

// Version 0, in a capsule named "dltensor"; "used_dltensor" once somebody has taken it.
struct Managed {
  Array array;
  void* context;
  void (*deleter)(Managed*);
};
// Version 1, "dltensor_versioned".
struct ManagedVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  Array array;
};
inline constexpr std::uint64_t kReadOnly = 1;

// Version 1.3: functions of an array library that hand over without Python, in a capsule "dlpack_exchange_api" that is
// `__dlpack_c_exchange_api__` of its array type. They give 0, or -1 with Python's exception set; none of them makes a
// stream wait.
struct ExchangeApi {
  std::uint32_t major, minor;
  ExchangeApi* older;
  int (*allocate)(Array*, ManagedVersioned**, void*, void (*)(void*, const char*, const char*));
  int (*from_object)(void*, ManagedVersioned**);
  int (*to_object)(ManagedVersioned*, void**);
  int (*view_of_object)(void*, Array*);
  int (*current_work_stream)(DeviceType, std::int32_t, void**);
};
inline constexpr const char* kExchangeApi = "dlpack_exchange_api";

}  // namespace coluber::python::dlpack
