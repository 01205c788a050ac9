// The main() of programs that have none of their own.
#include "lockr/testing/conformance.h"

int main(int argc, char** argv) { return lockr::testing::run_conformance(argc, argv, lockr::testing::harnesses()); }
