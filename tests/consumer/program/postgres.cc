// Includes what is PostgreSQL's alone, without libpq's headers; no server is needed to be refused.
#include <lockr/postgres.h>

int main() {
  const auto refused = lockr::postgres::lock_in_transaction(nullptr, lockr::Key::from_scopes({"consumer"}).value());
  return !refused && refused.error().code() == lockr::errc::connection_lost ? 0 : 1;
}
