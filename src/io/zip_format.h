// Numbers of the zip format (APPNOTE.TXT 4.3 and 4.5), shared by reader and writer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace coluber::zip {

inline constexpr std::uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
inline constexpr std::uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
inline constexpr std::size_t kLocalHeaderBytes = 30, kCentralHeaderBytes = 46, kEndBytes = 22;
inline constexpr std::size_t kEnd64Bytes = 56, kEnd64LocatorBytes = 20;
inline constexpr std::uint16_t kZip64Extra = 0x0001;
inline constexpr std::uint32_t kSee64 = 0xffffffffu;  // stands for a number that is in the zip64 fields
inline constexpr std::uint16_t kSee64Count = 0xffffu;
inline constexpr std::uint16_t kEncrypted = 1;  // bit of the flags

}  // namespace coluber::zip
