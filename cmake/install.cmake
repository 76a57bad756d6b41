# The version in the code is project()'s.
target_compile_definitions(coterie_runtime PRIVATE COTERIE_VERSION="${PROJECT_VERSION}")
