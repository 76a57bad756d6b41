# The CMakeLists.txt of the project that uses the installed coterie; by another name so that our own build leaves it alone.
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
find_package(coterie 0.1 REQUIRED)
add_executable(version version.cpp)
target_link_libraries(version PRIVATE coterie::coterie)
add_executable(hello hello.cpp)
target_link_libraries(hello PRIVATE coterie::coterie)
