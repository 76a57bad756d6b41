# Precompiled headers: a quarter to a half of the time a file of families, cli or tests takes, the compiler would read the
# same headers of other libraries again. A set of them is compiled once and shared by targets with the same flags:
#
#   coterie_precompiled_set(library LIBRARY LINKS fmt::fmt HEADERS <fmt/format.h>)     or PROGRAM: -fPIC differs from -fPIE
#   coterie_precompiled(coterie_models library)
#
# A set holds headers of other libraries alone, and a file still includes all that it uses: the fuzz preset compiles
# without precompiled headers. ccache needs -fpch-preprocess and the settings in ./dev to know files again.
option(COTERIE_PRECOMPILED "Use precompiled headers" ON)

function(coterie_precompiled_set name kind)
  cmake_parse_arguments(SET "" "" "LINKS;OPTIONS;HEADERS" ${ARGN})
  if(NOT COTERIE_PRECOMPILED)
    return()
  endif()
  set(source ${PROJECT_BINARY_DIR}/precompiled/nothing.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "int main() {}\n")
  if(kind STREQUAL "PROGRAM")
    add_executable(precompiled_${name} EXCLUDE_FROM_ALL ${source})
  else()
    add_library(precompiled_${name} OBJECT EXCLUDE_FROM_ALL ${source})
  endif()
  target_link_libraries(precompiled_${name} PRIVATE coterie_warnings ${SET_LINKS})
  target_compile_options(precompiled_${name} PRIVATE ${SET_OPTIONS})
  target_precompile_headers(precompiled_${name} PRIVATE ${SET_HEADERS})
endfunction()

function(coterie_precompiled target name)
  if(COTERIE_PRECOMPILED)
    target_precompile_headers(${target} REUSE_FROM precompiled_${name})
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
  endif()
endfunction()
