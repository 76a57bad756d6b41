# A room is one folder of src/: one static library, one include root, and links to the rooms it may see.
#
# `#include "base/error.h"` must resolve for the rooms that link base and for nobody else, so src/ itself is never an
# include directory. Instead each room gets a root of its own in the build folder that holds one link, to its folder.
#
#   coterie_room(tensor SEES base)                      every *.cpp directly or deeper below src/tensor is compiled
#   coterie_room(text SEES base LINKS some::library)    LINKS are outside libraries, private to the room
#   coterie_room(base SEES PUBLIC_LINKS fmt::fmt)       PUBLIC_LINKS are outside libraries its headers include
function(coterie_room name)
  cmake_parse_arguments(ROOM "" "" "SEES;LINKS;PUBLIC_LINKS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  foreach(pattern IN LISTS ROOM_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  set(root ${PROJECT_BINARY_DIR}/rooms/${name})
  file(MAKE_DIRECTORY ${root})
  if(NOT EXISTS ${root}/${name})
    file(CREATE_LINK ${PROJECT_SOURCE_DIR}/src/${name} ${root}/${name} SYMBOLIC)
  endif()
  set(seen)
  foreach(other IN LISTS ROOM_SEES)
    list(APPEND seen coterie_${other})
  endforeach()
  if(sources)
    add_library(coterie_${name} STATIC ${sources})
    target_include_directories(coterie_${name} PUBLIC ${root})
    target_link_libraries(coterie_${name} PUBLIC ${seen} ${ROOM_PUBLIC_LINKS} PRIVATE ${ROOM_LINKS} coterie_warnings)
  else()
    add_library(coterie_${name} INTERFACE)
    target_include_directories(coterie_${name} INTERFACE ${root})
    target_link_libraries(coterie_${name} INTERFACE ${seen} ${ROOM_PUBLIC_LINKS})
  endif()
endfunction()
