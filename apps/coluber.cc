#include "apps/program.h"

int main(int argc, char** argv) {
  return coluber::apps::run_program(argc, argv);
}
