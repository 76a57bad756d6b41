# The library as others use it: the headers of include/coterie, an archive and a shared library, find_package(coterie),
# pkg-config; and the binary.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The version in the code is project()'s, and the promised header is the runtime's to implement.
target_compile_definitions(coterie_runtime PRIVATE COTERIE_VERSION="${PROJECT_VERSION}")
target_include_directories(coterie_runtime PUBLIC ${PROJECT_SOURCE_DIR}/include)

# The rooms are archives of their own while we work on them; who installs gets one, joined when it is installed.
set(merge_script "create ${PROJECT_BINARY_DIR}/libcoterie.a\n")
foreach(room base threads tensor text quant comm kernels checkpoint ops layers models families lens runtime)
  string(APPEND merge_script "addlib $<TARGET_FILE:coterie_${room}>\n")
endforeach()
file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/libcoterie.mri CONTENT "${merge_script}save\nend\n")
install(CODE "
  file(REMOVE \"${PROJECT_BINARY_DIR}/libcoterie.a\")
  execute_process(COMMAND \"${CMAKE_AR}\" -M INPUT_FILE \"${PROJECT_BINARY_DIR}/libcoterie.mri\" RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR \"joining the archives failed: build everything first (cmake --build)\")
  endif()")
# The Rust archive stays one of its own: where an LLVM plugin for binutils is installed, ar cannot read the objects of
# Rust's standard library (they carry bitcode of a newer LLVM) and a joined archive would miss their symbols.
install(FILES ${PROJECT_BINARY_DIR}/libcoterie.a $<TARGET_FILE:coterie_text_bridge> DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${PROJECT_SOURCE_DIR}/include/coterie/coterie.h ${PROJECT_SOURCE_DIR}/include/coterie/coterie_c.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/coterie)

# The same as one shared library, tokenizers included, which shows what the headers promise and nothing else.
set(exports ${PROJECT_SOURCE_DIR}/cmake/libcoterie.map)
add_library(coterie_shared SHARED $<TARGET_OBJECTS:coterie_runtime>)
target_include_directories(coterie_shared INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(coterie_shared PRIVATE coterie_families coterie_lens coterie_comm coterie_warnings)
set(COTERIE_URING)  # what who links the archive links too
if(liburing_FOUND)
  target_link_libraries(coterie_shared PRIVATE PkgConfig::liburing)
  set(COTERIE_URING -luring)
endif()
target_link_options(coterie_shared PRIVATE -Wl,--version-script=${exports} -Wl,--no-undefined)
set_target_properties(coterie_shared PROPERTIES OUTPUT_NAME coterie VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} LINKER_LANGUAGE CXX LINK_DEPENDS ${exports})
install(TARGETS coterie_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
# The prefix is known when it is installed.
install(CODE "
  set(PROJECT_VERSION ${PROJECT_VERSION})
  set(COTERIE_URING ${COTERIE_URING})
  set(CMAKE_INSTALL_LIBDIR ${CMAKE_INSTALL_LIBDIR})
  set(CMAKE_INSTALL_INCLUDEDIR ${CMAKE_INSTALL_INCLUDEDIR})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/coterie.pc.in ${PROJECT_BINARY_DIR}/coterie.pc @ONLY)")
install(FILES ${PROJECT_BINARY_DIR}/coterie.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
if(TARGET coterie)
  install(TARGETS coterie RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  # The program writes its manual pages and completions itself, from the definitions of its options.
  if(NOT CMAKE_CROSSCOMPILING)
    install(CODE "
      set(words \"${PROJECT_BINARY_DIR}/words\")
      file(MAKE_DIRECTORY \"\${words}/man\")
      set(coterie \"$<TARGET_FILE:coterie>\")
      execute_process(COMMAND \${coterie} man --output \${words}/man COMMAND_ERROR_IS_FATAL ANY)
      foreach(shell bash zsh fish)
        execute_process(COMMAND \${coterie} completions \${shell} OUTPUT_FILE \${words}/\${shell}
          COMMAND_ERROR_IS_FATAL ANY)
      endforeach()")
    install(DIRECTORY ${PROJECT_BINARY_DIR}/words/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${PROJECT_BINARY_DIR}/words/bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
      RENAME coterie)
    install(FILES ${PROJECT_BINARY_DIR}/words/zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions RENAME _coterie)
    install(FILES ${PROJECT_BINARY_DIR}/words/fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d
      RENAME coterie.fish)
  endif()
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/coterie)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/coterieConfig.cmake.in ${PROJECT_BINARY_DIR}/coterieConfig.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
# Before 1.0 a minor version may break what uses the header.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/coterieConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/coterieConfig.cmake ${PROJECT_BINARY_DIR}/coterieConfigVersion.cmake
  DESTINATION ${package_dir})
