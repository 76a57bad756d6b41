# The Rust static library behind src/text (tokenizers, minijinja), built by cargo into the build folder.
add_library(coterie_text_bridge INTERFACE)
