#include "tests/simulation/witness.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lockr::testing {

std::string Witness::name_of(const Key& key) const {
  return by_hash_ ? std::to_string(key.hash()) : std::string(key.string());
}

void Witness::granted(const Releaser& releaser, Owner owner) {
  ++grants_;
  const Claim claim{.releaser = &releaser,
                    .name = name_of(releaser.key()),
                    .owner = owner,
                    .mode = releaser.mode(),
                    .token = fencing_ ? releaser.fencing_token().value_or(0) : 0};
  if (releaser.held()) {
    for (const Claim& other : claims_) {
      const bool conflict = other.name == claim.name && other.owner.session != owner.session &&
                            (other.mode == Mode::exclusive || claim.mode == Mode::exclusive);
      if (!conflict || !other.releaser->held()) continue;
      EXPECT_NE(loss_bound_, Time{0}) << "sessions " << other.owner.session << " and " << owner.session << " hold "
                                      << releaser.key().string() << " at once";
      // A process that has not heard of its loss may pass the lost lock on among its sessions: tokens tell whose it is.
      const bool first = claim.token < other.token;
      doubts_.push_back({.late = first ? &releaser : other.releaser,
                         .rival = first ? other.releaser : &releaser,
                         .until = sim_.steady_now() + loss_bound_});
    }
    check_token(claim);
  }
  claims_.push_back(claim);
}

// A grant that is held when it is told of came after every one told of before that it excludes.
void Witness::check_token(const Claim& claim) {
  if (!fencing_) return;
  EXPECT_NE(claim.token, 0u);
  for (const Claim& other : claims_) {
    if (other.name != claim.name || other.owner.session != claim.owner.session || !other.releaser->held()) continue;
    EXPECT_EQ(other.token, claim.token) << "re-entry has a number of its own";
    return;
  }
  const std::string whose = loss_bound_ == Time{0} ? "" : std::to_string(claim.owner.process) + " ";
  Tokens& last = tokens_[whose + claim.name];
  EXPECT_GT(claim.token, claim.mode == Mode::exclusive ? last.any : last.exclusive) << claim.name;
  if (claim.mode == Mode::exclusive) last.exclusive = std::max(last.exclusive, claim.token);
  last.any = std::max(last.any, claim.token);
}

void Witness::leaves(const Releaser& releaser) {
  std::erase_if(claims_, [&](const Claim& claim) { return claim.releaser == &releaser; });
  std::erase_if(doubts_,
                [&](const Doubt& doubt) { return doubt.late == &releaser || (!fencing_ && doubt.rival == &releaser); });
}

void Witness::look() {
  for (const Doubt& doubt : doubts_) {
    if (sim_.steady_now() < doubt.until) continue;
    EXPECT_FALSE(doubt.late->held() && (fencing_ || doubt.rival->held()))
        << "still believed in after the loss bound: " << doubt.late->key().string();
  }
}

}  // namespace lockr::testing
