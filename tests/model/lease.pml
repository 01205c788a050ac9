/* The protocol of leases: an engine that forgets a lock by itself, holders that may be slow, and what a holder writes to.

   Each variant below is a way to build it; check.sh asserts of each whether it is right.

   FENCED   the resource compares tokens, and refuses one that is older than the newest that it saw
   TIMELY   no holder is ever late: it stops before the engine may forget it. Without this a holder may sleep between
            its look at the clock and its write, for as long as it likes
   BLIND    a release deletes the lock whoever has it now, instead of comparing its unique value
   REVIVING a renewal that finds the lock gone sets it again, instead of calling it lost

   What must hold: no write is accepted after a newer holder's. */

#define CLIENTS 3
#define MOST_TOKENS 4

byte tokens;                /* The engine's counter: the token of the newest grant. */
byte owner;                 /* The engine's record: the token that has the lock, or 0. It is the unique value, too. */
bool trusts[MOST_TOKENS + 1]; /* Whether the holder of this token would still write. */
byte newest;                /* The resource: the newest token that it has seen. */

/* Time passes, and the engine forgets the lock. A timely holder has given up before. */
#ifdef TIMELY
#define OVER (owner != 0 && !trusts[owner])
#else
#define OVER (owner != 0)
#endif
active proctype Expiry() {
end:
  do
  :: atomic { OVER -> owner = 0 }
  od
}

inline write(token) {
  atomic {
#ifdef TIMELY
    if
    :: trusts[token] -> skip
    :: else -> goto lost
    fi;
#endif
    if
#ifdef FENCED
    :: token < newest -> skip
#endif
    :: else ->
      assert(token >= newest);
      newest = token
    fi
  }
}

active [CLIENTS] proctype Client() {
  byte token;
again:
  /* Take: the engine grants, and its answer may get lost on the way back. */
end:
  atomic { owner == 0 && tokens < MOST_TOKENS -> tokens++; token = tokens; owner = token; trusts[token] = true }
  if
  :: skip
  :: /* The outcome is unknown: nothing is held, and what may have been granted is given back by its value. */
     trusts[token] = false;
     atomic { if :: owner == token -> owner = 0 :: else -> skip fi };
     goto again
  fi;
  do
  :: skip; write(token)
  :: /* Renew; the holder's own clock may say meanwhile that it is over. */
     if :: skip :: trusts[token] = false fi;
     atomic {
       if
       :: owner == token -> trusts[token] = true
#ifdef REVIVING
       :: else -> owner = token; trusts[token] = true
#else
       :: else -> goto lost
#endif
       fi
     }
#ifdef TIMELY
  :: trusts[token] = false; goto lost /* Its own clock says that it is over. */
#endif
  :: break
  od;
  /* Release: it stops writing first. */
  trusts[token] = false;
#ifdef BLIND
  owner = 0;
#else
  atomic { if :: owner == token -> owner = 0 :: else -> skip fi };
#endif
  goto again;
lost:
  trusts[token] = false;
  goto again
}
