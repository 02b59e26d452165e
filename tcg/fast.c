#include "exec.h"
void fast_init(void) {}
insn_fn fast_choose(const struct insn *in) { return NULL; }
bool fast_end(struct insn *in, struct block *b) { return false; }
void fast_fuse(struct insn *in) {}
