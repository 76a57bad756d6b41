// Several texts written together: each step reads the weights once for all of them. A fork of a session answers the
// same beginning otherwise, and shares its memory.
//
//   sessions MODEL [PROMPT]…
#include <coterie/coterie.h>

#include <algorithm>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: sessions MODEL [PROMPT]...\n";
    return 2;
  }
  try {
    const coterie::Model model = coterie::Model::load(argv[1]);
    std::vector<std::string> prompts(argv + 2, argv + argc);
    if (prompts.empty()) prompts = {"Once upon a time", "The little dog"};

    coterie::GenerateOptions options;
    options.max_tokens = 24;
    options.temperature = 0;
    std::vector<coterie::Session> sessions;
    std::vector<coterie::Session*> all;
    sessions.reserve(prompts.size());
    for (const std::string& prompt : prompts) {
      sessions.push_back(model.session());
      sessions.back().start(prompt, options);
      all.push_back(&sessions.back());
    }
    const auto finished = [](const coterie::Session* session) { return session->finished(); };
    while (!std::all_of(all.begin(), all.end(), finished)) coterie::step(all);

    for (size_t i = 0; i < prompts.size(); ++i) {
      if (const std::exception_ptr error = sessions[i].error()) std::rethrow_exception(error);
      std::cout << prompts[i] << sessions[i].generated().text << "\n";
    }

    coterie::Session other = sessions.front().fork();
    options.temperature = 1, options.seed = 7;
    const coterie::Generated answer = other.generate(prompts.front(), options);
    std::cout << "or: " << prompts.front() << answer.text << "\n";
    std::cerr << answer.reused_tokens << " of " << answer.prompt_tokens << " prompt tokens were there already\n";
  } catch (const coterie::Error& error) {
    std::cerr << "sessions: " << error.what() << "\n";
    return 1;
  }
}
