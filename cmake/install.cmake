# cmake --install and find_package(coluber).
