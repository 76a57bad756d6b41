# The Rust static library behind src/text (tokenizers, minijinja), built by cargo into the build folder.
#
# Several build folders may share one compiled copy: set COTERIE_CARGO_TARGET_DIR (cache variable or environment).
find_program(COTERIE_CARGO cargo HINTS $ENV{CARGO_HOME}/bin $ENV{HOME}/.cargo/bin /usr/share/cargo/bin
             DOC "cargo 1.87 or newer: rustup's, or Debian's cargo-web")
if(NOT COTERIE_CARGO)
  message(FATAL_ERROR "cargo was not found; it builds the tokenizers (src/text/bridge). Install rustup or, on Debian 12, cargo-web; or set -DCOTERIE_CARGO=PATH.")
endif()
execute_process(COMMAND ${COTERIE_CARGO} --version OUTPUT_VARIABLE cargo_version OUTPUT_STRIP_TRAILING_WHITESPACE)
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" cargo_number "${cargo_version}")
if(cargo_number VERSION_LESS 1.87)
  message(FATAL_ERROR "${COTERIE_CARGO} is \"${cargo_version}\"; the tokenizers (src/text/bridge) need cargo 1.87 or newer. Debian 12's cargo-web is; or set -DCOTERIE_CARGO=PATH.")
endif()

set(cargo_target_default ${PROJECT_BINARY_DIR}/cargo)
if(DEFINED ENV{COTERIE_CARGO_TARGET_DIR})
  set(cargo_target_default $ENV{COTERIE_CARGO_TARGET_DIR})
endif()
set(COTERIE_CARGO_TARGET_DIR ${cargo_target_default} CACHE PATH "Where cargo compiles src/text/bridge")

set(bridge ${PROJECT_SOURCE_DIR}/src/text/bridge)
set(bridge_archive ${COTERIE_CARGO_TARGET_DIR}/release/libcoterie_text_bridge.a)
file(GLOB bridge_sources CONFIGURE_DEPENDS ${bridge}/src/*.rs)
add_custom_command(
  OUTPUT ${bridge_archive}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${COTERIE_CARGO_TARGET_DIR} --unset=RUSTFLAGS
          ${COTERIE_CARGO} build --release --locked --quiet --manifest-path ${bridge}/Cargo.toml
  # cargo leaves the archive alone when a change of a file changes nothing in it; without a new date ninja would ask again
  # at every build.
  COMMAND ${CMAKE_COMMAND} -E touch ${bridge_archive}
  DEPENDS ${bridge_sources} ${bridge}/Cargo.toml ${bridge}/Cargo.lock
  COMMENT "Building the tokenizers and chat templates (Rust)"
  USES_TERMINAL VERBATIM)
add_custom_target(coterie_text_bridge_build DEPENDS ${bridge_archive})

add_library(coterie_text_bridge STATIC IMPORTED GLOBAL)
set_target_properties(coterie_text_bridge PROPERTIES IMPORTED_LOCATION ${bridge_archive})
target_link_libraries(coterie_text_bridge INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
add_dependencies(coterie_text_bridge coterie_text_bridge_build)
