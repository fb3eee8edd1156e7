# cmake --install: headers, library, command line program, find_package(coluber) and pkg-config.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(TARGET coluber_cli)
  install(TARGETS coluber_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(TARGETS coluber EXPORT coluber
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/coluber" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/coluber")
install(EXPORT coluber NAMESPACE coluber:: FILE coluber-targets.cmake DESTINATION "${package_dir}")

# Packages behind the imported targets that a static library is linked with; a shared one carries its own list.
set(COLUBER_FIND_DEPENDENCIES "")
set(private_libraries "")  # for pkg-config --static
foreach(library IN LISTS libraries)
  if(library MATCHES "^([A-Za-z0-9]+)::")
    string(APPEND COLUBER_FIND_DEPENDENCIES "find_dependency(${CMAKE_MATCH_1})\n")
    if(library STREQUAL "Threads::Threads")
      string(APPEND private_libraries " ${CMAKE_THREAD_LIBS_INIT}")
    else()
      get_target_property(location ${library} IMPORTED_LOCATION_RELEASE)
      if(NOT location)
        get_target_property(location ${library} IMPORTED_LOCATION)
      endif()
      if(location)
        string(APPEND private_libraries " ${location}")
      endif()
    endif()
  elseif(library MATCHES "^[-/]")
    string(APPEND private_libraries " ${library}")
  else()
    string(APPEND private_libraries " -l${library}")
  endif()
endforeach()
string(STRIP "${private_libraries} -lstdc++ -lm" private_libraries)
string(REGEX REPLACE "/[^ ]*/lib([^/ ]+)\\.(so|a)" "-l\\1" private_libraries "${private_libraries}")

if(BUILD_SHARED_LIBS)
  set(COLUBER_FIND_DEPENDENCIES "")
  set(COLUBER_PC_LIBS "")
  set(COLUBER_PC_LIBS_PRIVATE "${private_libraries}")
else()  # a static archive needs its libraries named whether or not --static was asked for
  set(COLUBER_PC_LIBS "${private_libraries}")
  set(COLUBER_PC_LIBS_PRIVATE "")
endif()
configure_package_config_file(cmake/coluber-config.cmake.in "${PROJECT_BINARY_DIR}/coluber-config.cmake"
                              INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/coluber-config-version.cmake" COMPATIBILITY SameMinorVersion)
configure_file(cmake/coluber.pc.in "${PROJECT_BINARY_DIR}/coluber.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/coluber-config.cmake" "${PROJECT_BINARY_DIR}/coluber-config-version.cmake"
        DESTINATION "${package_dir}")
install(FILES "${PROJECT_BINARY_DIR}/coluber.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
