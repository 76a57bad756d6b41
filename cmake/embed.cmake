# Makes a file of text a function of the program.
#
#   coterie_embed(coterie_lens web/report.html lens report_page)
#
# adds a source to the target coterie_lens that defines std::string_view coterie::lens::report_page(); its header,
# lens/report_page.h, is in the tree.
function(coterie_embed target file room function)
  set(source ${PROJECT_BINARY_DIR}/embedded/${function}.cpp)
  add_custom_command(OUTPUT ${source}
    COMMAND ${CMAKE_COMMAND} -DFROM=${PROJECT_SOURCE_DIR}/${file} -DTO=${source} -DROOM=${room} -DFUNCTION=${function}
            -P ${PROJECT_SOURCE_DIR}/cmake/write_embedded.cmake
    DEPENDS ${PROJECT_SOURCE_DIR}/${file} ${PROJECT_SOURCE_DIR}/cmake/write_embedded.cmake VERBATIM)
  target_sources(${target} PRIVATE ${source})
endfunction()
