# A room is one folder of src/: one static library, one include root, and links to the rooms it may see.
#
# `#include "base/error.h"` must resolve for the rooms that link base and for nobody else, so src/ itself is never an
# include directory. Instead each room gets a root of its own in the build folder that holds one link, to its folder.
#
# Which rooms it may see is in scripts/arrows.toml, one line a room.
#
#   coterie_room(tensor)                        every *.cpp directly or deeper below src/tensor is compiled
#   coterie_room(text LINKS some::library)      LINKS are outside libraries, private to the room
#   coterie_room(base PUBLIC_LINKS fmt::fmt)    PUBLIC_LINKS are outside libraries its headers include
#   coterie_room(cli PRECOMPILED cli)           with the set of headers `cli` of precompiled.cmake
#   coterie_room(serve LIGHT)                   it does no arithmetic on weights: a release optimises it less, which
#                                               nearly halves the time to compile it
#   coterie_room(families SEPARATE "/known/")   files that match are compiled one by one; "." is all of them
#
# Other sources are compiled eight at a time, which takes a third of the time: of two in one room, functions,
# types and constants of the same name in namespaces without one may clash. -DCOTERIE_UNITY=OFF compiles each alone.
#
# COTERIE_PLAIN_ROOMS names rooms that a preset with sanitizers compiles without them.
set(arrows ${PROJECT_SOURCE_DIR}/scripts/arrows.toml)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${arrows})
file(STRINGS ${arrows} lines REGEX "^[^#]")
foreach(line IN LISTS lines)
  if(NOT line MATCHES "^([a-z]+) *= *\\[([a-z\", ]*)\\]$")
    message(FATAL_ERROR "scripts/arrows.toml: expected a line like: ops = [\"base\", \"tensor\"]; found: ${line}")
  endif()
  set(room ${CMAKE_MATCH_1})
  string(REGEX MATCHALL "[a-z]+" coterie_sees_${room} "${CMAKE_MATCH_2}")
  list(TRANSFORM coterie_sees_${room} PREPEND coterie_)
endforeach()

option(COTERIE_UNITY "Compile the sources of most rooms eight at a time" ON)

# Puts files that include eight of the room's sources each in their place, but for those that match `separate`. The names
# are those of the room's include root, the same in every checkout, so that ccache knows them again; CMake's own unity
# builds write absolute paths.
function(coterie_compile_together name separate variable)
  set(made "")
  set(batch "")
  set(left ${${variable}})
  if(separate)
    list(FILTER left EXCLUDE REGEX "${separate}")
    set(made ${${variable}})
    list(FILTER made INCLUDE REGEX "${separate}")
  endif()
  set(number 0)
  while(left)
    list(POP_FRONT left source)
    file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR}/src ${source})
    string(APPEND batch "#include \"${path}\"\n")
    math(EXPR number "${number} + 1")
    math(EXPR rest "${number} % 8")
    if(rest EQUAL 0 OR NOT left)
      set(file ${PROJECT_BINARY_DIR}/together/${name}_${number}.cpp)
      file(CONFIGURE OUTPUT ${file} CONTENT "${batch}" @ONLY)
      list(APPEND made ${file})
      set(batch "")
    endif()
  endwhile()
  set(${variable} ${made} PARENT_SCOPE)
endfunction()

function(coterie_room name)
  cmake_parse_arguments(ROOM "LIGHT" "PRECOMPILED;SEPARATE" "LINKS;PUBLIC_LINKS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  foreach(pattern IN LISTS ROOM_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  set(root ${PROJECT_BINARY_DIR}/rooms/${name})
  file(MAKE_DIRECTORY ${root})
  if(NOT EXISTS ${root}/${name})
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/src/${name} ${root}/${name} SYMBOLIC)
  endif()
  if(ROOM_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "coterie_room(${name} …): not understood: ${ROOM_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT DEFINED coterie_sees_${name})
    message(FATAL_ERROR "coterie_room(${name} …): scripts/arrows.toml has no line for it")
  endif()
  set(seen ${coterie_sees_${name}})
  set(warnings coterie_warnings)
  if(COTERIE_UNITY AND NOT ROOM_SEPARATE STREQUAL ".")
    coterie_compile_together(${name} "${ROOM_SEPARATE}" sources)
    list(APPEND warnings coterie_unity_warnings)
  endif()
  if(sources)
    add_library(coterie_${name} STATIC ${sources})
    target_include_directories(coterie_${name} PUBLIC ${root})
    target_link_libraries(coterie_${name} PUBLIC ${seen} ${ROOM_PUBLIC_LINKS} PRIVATE ${ROOM_LINKS} ${warnings})
    if(ROOM_LIGHT)
      target_compile_options(coterie_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
    endif()
    if(name IN_LIST COTERIE_PLAIN_ROOMS)
      target_compile_options(coterie_${name} PRIVATE -fno-sanitize=all)
    endif()
    if(ROOM_PRECOMPILED)
      coterie_precompiled(coterie_${name} ${ROOM_PRECOMPILED})
    endif()
  else()
    add_library(coterie_${name} INTERFACE)
    target_include_directories(coterie_${name} INTERFACE ${root})
    target_link_libraries(coterie_${name} INTERFACE ${seen} ${ROOM_PUBLIC_LINKS})
  endif()
endfunction()
