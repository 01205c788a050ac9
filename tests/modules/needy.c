/* A shared object that needs a symbol which nobody has. */
int lockr_that_nobody_has(void);
int lockr_needy(void);
int lockr_needy(void) { return lockr_that_nobody_has(); }
