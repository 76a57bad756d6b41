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
#   coterie_room(serve LIGHT "/api/")           files that match do no arithmetic on weights: a release optimises them
#                                               less, which nearly halves the time to compile them
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

function(coterie_room name)
  cmake_parse_arguments(ROOM "" "PRECOMPILED;LIGHT" "LINKS;PUBLIC_LINKS;EXCLUDE" ${ARGN})
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
  if(sources)
    add_library(coterie_${name} STATIC ${sources})
    target_include_directories(coterie_${name} PUBLIC ${root})
    target_link_libraries(coterie_${name} PUBLIC ${seen} ${ROOM_PUBLIC_LINKS} PRIVATE ${ROOM_LINKS} coterie_warnings)
    if(ROOM_LIGHT)
      set(light ${sources})
      list(FILTER light INCLUDE REGEX "${ROOM_LIGHT}")
      if(NOT light)
        message(FATAL_ERROR "coterie_room(${name} …): no source matches LIGHT \"${ROOM_LIGHT}\"")
      endif()
      set_source_files_properties(${light} PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O1>)
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
