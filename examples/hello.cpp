// Loads a model and lets it write.
//
//   hello MODEL [PROMPT]
//
// Against an installed coterie:  find_package(coterie REQUIRED)
//                                target_link_libraries(hello PRIVATE coterie::coterie)
#include <coterie/coterie.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: hello MODEL [PROMPT]\n";
    return 2;
  }
  try {
    const coterie::Model model = coterie::Model::load(argv[1]);
    std::cerr << model.name() << ": " << model.parameters() << " parameters, " << model.active_parameters()
              << " active per token\n";

    coterie::GenerateOptions options;
    options.max_tokens = 64;
    options.temperature = 0;
    const auto print = [](std::string_view text) { std::cout << text << std::flush; };
    const std::string prompt = argc > 2 ? argv[2] : "The capital of France is";
    const coterie::Generated answer = model.generate(prompt, options, print);
    std::cout << "\n";
    std::cerr << answer.tokens.size() << " tokens, ended by: " << coterie::name(answer.finish) << "\n";
  } catch (const coterie::Error& error) {
    std::cerr << "hello: " << error.what() << "\n";
    return 1;
  }
}
