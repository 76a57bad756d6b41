#include "cli/app.h"

int main(int argc, char** argv) { return coterie::cli::run(argc, argv); }
