// Witness: what the callers of several processes may say of their locks, checked against each other at every step.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lockr/locker.h"
#include "tests/simulation/sim_runtime.h"

namespace lockr::testing {

class Witness {
 public:
  /// `by_hash`: keys of one hash are one lock. `loss_bound`: for how long a lock that the engine gave away may be
  /// believed in; 0 where the engine never does.
  Witness(SimRuntime& sim, bool by_hash, bool fencing, Time loss_bound)
      : sim_(sim), by_hash_(by_hash), fencing_(fencing), loss_bound_(loss_bound) {}

  /// Whose lock it is.
  struct Owner {
    int session;
    int process;
  };

  /// A lock that a call has just returned.
  void granted(const Releaser& releaser, Owner owner);
  /// Its holder is about to let it go.
  void leaves(const Releaser& releaser);
  /// Whether what is held now may be held, as far as that could not be said when it was granted.
  void look();
  std::size_t grants() const { return grants_; }
  std::size_t held() const { return claims_.size(); }

 private:
  struct Claim {
    const Releaser* releaser;
    std::string name;
    Owner owner;
    Mode mode;
    std::uint64_t token;
  };
  struct Doubt {
    const Releaser* late;
    const Releaser* rival;  // Without tokens it may be this one.
    Time until;             // Steady clock.
  };
  struct Tokens {
    std::uint64_t exclusive = 0;
    std::uint64_t any = 0;
  };

  std::string name_of(const Key& key) const;
  void check_token(const Claim& claim);

  SimRuntime& sim_;
  const bool by_hash_;
  const bool fencing_;
  const Time loss_bound_;
  std::vector<Claim> claims_;
  std::vector<Doubt> doubts_;
  std::map<std::string, Tokens> tokens_;  // Of each process for itself, where locks are given away early.
  std::size_t grants_ = 0;
};

}  // namespace lockr::testing
