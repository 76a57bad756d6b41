// Prints the version and the words of an error: the library is linked, and its exceptions are those of its header.
#include <coterie/coterie.h>

#include <iostream>

int main() {
  try {
    coterie::Model::load("no such model");
  } catch (const coterie::Error& error) {
    std::cout << "coterie " << coterie::version() << ": " << error.what() << "\n";
    return error.kind() == coterie::Error::Kind::not_found ? 0 : 1;
  }
  return 1;
}
