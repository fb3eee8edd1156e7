// The version of the library; CMakeLists.txt reads it from here, so there is one place to change it.
//
// Versions follow semver.org. Before 1.0 a new minor version may change the interface; CHANGELOG.md says what.
#pragma once

#define COLUBER_VERSION_MAJOR 0
#define COLUBER_VERSION_MINOR 1
#define COLUBER_VERSION_PATCH 0
#define COLUBER_VERSION "0.1.0"
