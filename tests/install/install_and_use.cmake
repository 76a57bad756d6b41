# cmake -DBUILD=… -DSOURCE=… -DCOMPILER=… -DGENERATOR=… -P install_and_use.cmake
set(work ${BUILD}/install-test)
file(REMOVE_RECURSE ${work})

function(must)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(failed)
    message(FATAL_ERROR "${ARGN}\nfailed (${failed}):\n${out}\n${err}")
  endif()
  set(out "${out}" PARENT_SCOPE)
endfunction()

must(${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/prefix)
foreach(file bin/coterie include/coterie/coterie.h share/man/man1/coterie.1 share/man/man1/coterie-run.1
    share/bash-completion/completions/coterie share/zsh/site-functions/_coterie
    share/fish/vendor_completions.d/coterie.fish)
  if(NOT EXISTS ${work}/prefix/${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
file(GLOB_RECURSE headers RELATIVE ${work}/prefix/include ${work}/prefix/include/*)
if(NOT headers STREQUAL "coterie/coterie.h")
  message(FATAL_ERROR "one header is promised, installed were: ${headers}")
endif()

# A copy, so that nothing beside it can be found by accident.
file(COPY ${SOURCE}/tests/install/version.cpp ${SOURCE}/examples/hello.cpp DESTINATION ${work}/consumer)
configure_file(${SOURCE}/tests/install/project.cmake ${work}/consumer/CMakeLists.txt COPYONLY)
must(${CMAKE_COMMAND} -S ${work}/consumer -B ${work}/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=Release
     -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${work}/prefix)
must(${CMAKE_COMMAND} --build ${work}/build)
must(${work}/build/version)
if(NOT out MATCHES "^coterie [0-9]+\\.[0-9]+\\.[0-9]+: ")
  message(FATAL_ERROR "the consumer said: ${out}")
endif()
must(${work}/prefix/bin/coterie --version)
file(REMOVE_RECURSE ${work})
