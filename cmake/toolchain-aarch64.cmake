# Cross compilation for 64-bit ARM with Debian's packages, tests run by qemu-user (preset "aarch64"):
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install --no-install-recommends g++-aarch64-linux-gnu qemu-user libstdc++6:arm64 libgtest-dev:arm64 \
#     libutf8proc-dev:arm64
# Debian has SentencePiece for one architecture at a time: installing arm64's removes the other. Unpacked, both are there:
#   apt-get download libsentencepiece-dev:arm64 libsentencepiece0:arm64
#   for package in libsentencepiece*_arm64.deb; do dpkg -x "$package" /opt/arm64; done
#   cmake --preset aarch64 -DCMAKE_PREFIX_PATH=/opt/arm64/usr
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
set(CMAKE_IGNORE_PATH /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu/cmake)
