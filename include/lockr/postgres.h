// What PostgreSQL alone offers: locks that belong to a transaction of yours, and the set-up of a database for fencing.
// Installed, and in the library, where the PostgreSQL backend is built in. Does not include libpq-fe.h.
#pragma once

#include <string>

#include "lockr/config.h"
#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/releaser.h"
#include "lockr/result.h"

struct pg_conn;

namespace lockr::postgres {

/// Takes the key until the transaction ends that `connection` (a PGconn*, yours) is in; there is nothing to release. It
/// excludes whoever takes the key in this database through lockr or through pg_advisory_lock on its number, and is
/// counted by the server: a transaction may take a key that it has. A pooler in transaction mode does no harm.
///
/// `config` is that of the lockers that it excludes: its namespace is added to the key, as they add it, and of it no
/// more than acquire_timeout is used; `connection` decides where the key is locked. Without a config no namespace is
/// added: a locker whose config has one locks another key then, and both are granted.
///
/// `options` are those of Session::lock. Without timeout and deadline it waits no longer than acquire_timeout (30 s
/// without a config), and no longer than the connection's own lock_timeout. A `stop` is looked at every 0.75 s, and the
/// wait loses its place in the server's queue then. In a REPEATABLE READ or SERIALIZABLE transaction, what is read
/// after the grant may be older than the grant: use READ COMMITTED. Calls libpq, blocking; the connection must not be
/// used by another thread meanwhile. It may be in non-blocking mode. A savepoint, `lockr_lock`, stands around what is
/// sent: after an error your transaction goes on, without the lock and with lock_timeout as you had it.
///
/// Errors, with the SQLSTATE in native() where there is one: `timeout`; `cancelled`; `not_acquired` when the timeout
/// was zero or less; `deadlock`, at once when a locker of this process holds the key, as the server can't see that the
/// two belong together, or when the server finds a cycle; `session_busy` while the connection is inside a command or in
/// pipeline mode; `backend_failure` with 25P01 when it has no transaction and with 25P02 when that has failed;
/// `capacity` (53200); `unsafe_setup` on a hot standby; `invalid_key`; `invalid_config` when the config is of another
/// backend; `connection_lost`, also when the server stays
/// silent for 3 s beyond the timeout: the connection has a command outstanding then and is of no more use.
LOCKR_API Status lock_in_transaction(pg_conn* connection, const LockerConfig& config, const Key& key,
                                     const LockOptions& options = {});
LOCKR_API Status lock_in_transaction(pg_conn* connection, const Key& key, const LockOptions& options = {});

/// The same without waiting for a holder. Errors: `not_acquired`, and those of lock_in_transaction() but for the
/// waiting ones.
LOCKR_API Status try_lock_in_transaction(pg_conn* connection, const LockerConfig& config, const Key& key,
                                         Mode mode = Mode::exclusive);
LOCKR_API Status try_lock_in_transaction(pg_conn* connection, const Key& key, Mode mode = Mode::exclusive);

/// What `"fencing": true` needs in a database, as SQL that may be run again, by the same role: the schema lockr, its
/// sequence, and the table and the function by which the sequence leaps after a crash of the server. What an older
/// version of lockr made is completed by it; the sequence goes on where it is.
LOCKR_API std::string init_sql();

/// Runs init_sql() in the database of the config, in one transaction, within connect_timeout. To be run once, and after
/// an upgrade of lockr, by a role that may create a schema there; the roles of services need the grants of
/// grants_sql(). Errors: `invalid_config` when the config is of another backend; those of lockr::open();
/// `access_denied` (42501), also when another role had made the function; `unsafe_setup` on a hot standby.
LOCKR_API Status init(const LockerConfig& config);

/// The grants that a role needs to draw fencing tokens, as SQL; the role's name is quoted.
LOCKR_API std::string grants_sql(std::string_view role);

}  // namespace lockr::postgres
