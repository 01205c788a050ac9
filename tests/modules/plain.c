/* A shared object that is no module. */
int lockr_plain(void);
int lockr_plain(void) { return 1; }
