# Precompiled headers: half of the time that a file of models, cli or tests takes, the compiler would read the same
# headers of other libraries again. A set of headers is compiled once and shared by targets with the same flags:
#
#   coterie_precompiled_set(json LIBRARY LINKS fmt::fmt HEADERS <fmt/format.h>)     or PROGRAM: -fPIC differs from -fPIE
#   coterie_precompiled(coterie_models json)
#
# A set holds headers of other libraries alone, and a file still includes all it uses. GCC says so (-Winvalid-pch) when it
# cannot use a set. ccache needs -fpch-preprocess and the settings in ./dev to keep what was compiled with one.
option(COTERIE_PRECOMPILED "Use precompiled headers" ON)

function(coterie_precompiled_set name kind)
  cmake_parse_arguments(SET "" "" "LINKS;OPTIONS;HEADERS" ${ARGN})
  add_library(coterie_flags_${name} INTERFACE)
  target_link_libraries(coterie_flags_${name} INTERFACE coterie_warnings ${SET_LINKS})
  target_compile_options(coterie_flags_${name} INTERFACE ${SET_OPTIONS} $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
  if(COTERIE_PRECOMPILED)
    set(source ${PROJECT_BINARY_DIR}/precompiled/nothing.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "int main() {}\n")
    if(kind STREQUAL "PROGRAM")
      add_executable(precompiled_${name} EXCLUDE_FROM_ALL ${source})
    else()
      add_library(precompiled_${name} OBJECT EXCLUDE_FROM_ALL ${source})
    endif()
    target_link_libraries(precompiled_${name} PRIVATE coterie_flags_${name})
    target_precompile_headers(precompiled_${name} PRIVATE ${SET_HEADERS})
  endif()
endfunction()

function(coterie_precompiled target name)
  target_link_libraries(${target} PRIVATE coterie_flags_${name})
  if(COTERIE_PRECOMPILED)
    target_precompile_headers(${target} REUSE_FROM precompiled_${name})
  endif()
endfunction()
