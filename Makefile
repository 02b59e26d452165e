# Builds mvm: one static-pie musl binary.  `make` never touches the network; `make help` lists the rest.
#
# Variables: O=dir (output, default build)  V=1 (show commands)  OPT="-O1 -g3"  SAN=address (with
# undefined) or thread (a glibc build in build/san-$(SAN))  JOBS=n  PREFIX=/usr/local  DESTDIR=

VERSION := 0.1.0
SAN ?=
OPT ?= -O2 -g
JOBS := $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 30
O ?= $(if $(SAN),build/san-$(SAN),build)

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --no-builtin-rules --no-print-directory -j$(JOBS)
endif
.SUFFIXES:
.DELETE_ON_ERROR:
Q := $(if $(V),,@)
say = $(if $(V),@:,@printf '  %-6s %s\n' $(1) $(2))

# --- what is built from what ----------------------------------------------------------------------
SRC_DIRS := . devices devices/virtio host boot tcg seccomp api
SRC := $(patsubst ./%,%,$(sort $(wildcard $(SRC_DIRS:%=%/*.c))))
LIB_SRC := $(filter-out main.c,$(SRC))
ORACLE_SRC := $(sort $(wildcard tests/conform/oracle*.c))
TEST_SRC := $(sort $(wildcard tests/test.c tests/rig.c tests/unit/*.c tests/contract/*.c tests/kvm/*.c) \
	$(filter-out $(ORACLE_SRC),$(wildcard tests/conform/*.c)))
FUZZ_NAMES := $(filter-out kit replay,$(basename $(notdir $(sort $(wildcard tests/fuzz/*.c)))))

obj = $(patsubst %.c,$(O)/obj/%.o,$(1))
LIB_OBJ := $(call obj,$(LIB_SRC)) $(if $(SAN),$(O)/obj/tools/san_shim.o,$(O)/obj/tools/start.o \
	$(O)/obj/tools/libc_shim.o $(O)/obj/tools/printf.o $(O)/obj/tools/zstd_legacy.o)
GUESTS := $(patsubst tests/guest/%.S,$(O)/guest-tests/%.elf,$(sort $(wildcard tests/guest/*.S))) \
	$(O)/guest-tests/words-32.elf $(O)/guest-tests/words-64.elf
REPLAYS := $(FUZZ_NAMES:%=$(O)/fuzz/%-replay)
FUZZERS := $(FUZZ_NAMES:%=$(O)/fuzz/%)
TEST_BINS := $(O)/mvm-test $(if $(SAN),,$(O)/mvm-without) $(if $(ORACLE_SRC),$(O)/mvm-oracle) $(REPLAYS)

# --- flags ----------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wno-unused-parameter
COMMON := -std=gnu17 $(OPT) -mgeneral-regs-only -fstack-protector-strong -ffunction-sections \
	-fdata-sections -fno-omit-frame-pointer -fno-asynchronous-unwind-tables -pthread -D_GNU_SOURCE -DMVM_VERSION='"$(VERSION)"' \
	-I. -I$(O)/gen
LIBS := -lz -llzma -llz4 -lzstd -lcap-ng
ifeq ($(SAN),)
CC := musl-gcc
# Without vector registers gcc clears and copies small structs by rep stos and rep movs, which cost
# more to start than a few plain stores.
CFLAGS := $(COMMON) $(WARN) -Werror -fPIE -isystem $(O)/inc \
	-mmemset-strategy=unrolled_loop:256:noalign,libcall:-1:noalign \
	-mmemcpy-strategy=unrolled_loop:256:noalign,libcall:-1:noalign
# musl-gcc -static-pie would make a dynamic program, so the start files are named here, with tools/start.c in
# place of musl's; scripts/gate.sh checks the outcome.
MUSL := /usr/lib/x86_64-linux-musl
gccfile = $(shell gcc -print-file-name=$(1))
LINK = gcc -static-pie -nostdlib -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code,-z,pack-relative-relocs \
	-Wl,--gc-sections,--build-id=sha1,--no-eh-frame-hdr,-Map=$@.map,-T,tools/link.ld -o $@ \
	$(MUSL)/crti.o $(call gccfile,crtbeginS.o) \
	$(filter %.o,$^) -L$(MUSL) -L/usr/lib/x86_64-linux-gnu $(LIBS:-l%=-l:lib%.a) \
	-Wl,--start-group -lc -lgcc -lgcc_eh -Wl,--end-group $(call gccfile,crtendS.o) $(MUSL)/crtn.o
else
# __NO_INLINE__ hides glibc's inline floating-point functions, which -mgeneral-regs-only rejects.
CC := gcc
SAN_FLAGS := -fsanitize=$(SAN) $(if $(filter address,$(SAN)),-fsanitize=undefined,-Wno-tsan)
CFLAGS := $(COMMON) $(WARN) -Werror -fPIE -DMVM_SANITIZED -D__NO_INLINE__ $(SAN_FLAGS) -fno-sanitize-recover=all
LINK = gcc -pie $(SAN_FLAGS) -pthread -o $@ $(filter %.o,$^) $(MEM_WRAP) $(LIBS)
endif
# What the sanitizers' run-times and glibc do with vector registers: tools/san_shim.c.  TSan calls its
# run-time at every access to memory, so files whose functions run while the guest's vector state is
# in the host's registers are left as they are.
MEM_WRAP := -Wl,--wrap=memcpy,--wrap=memmove,--wrap=memset,--wrap=memcmp
ifeq ($(SAN),thread)
$(O)/obj/tcg/%.o $(O)/obj/tests/test.o $(O)/obj/tests/unit/native.o: CFLAGS := \
	$(filter-out -fsanitize=%,$(CFLAGS))
endif
FUZZ_CFLAGS := $(COMMON) -D__NO_INLINE__ -w -fsanitize=fuzzer-no-link,address
FUZZ_WRAP := $(MEM_WRAP),--wrap=__asan_memcpy,--wrap=__asan_memmove,--wrap=__asan_memset

# --- targets --------------------------------------------------------------------------------------
.PHONY: all debug run test unit e2e soak bench bench-tcg lint fuzz fuzz-cpu man install uninstall clean dist deps guest \
	san help FORCE

all: $(O)/mvm $(O)/mvm.1 ## build build/mvm (the default); offline

debug: ## build build/debug/mvm without optimisation
	$(Q)$(MAKE) O=build/debug OPT="-O0 -g3" all

run: ## install what is missing, build, prepare a Debian guest and boot it to a login shell
	$(Q)scripts/setup.sh build guest
	$(Q)$(MAKE) all
	$(Q)scripts/guest.sh kernel initrd root
	$(Q)exec $(O)/mvm --kernel build/guest/vmlinuz --initrd build/guest/initrd.img \
		--disk build/guest/root.img $(ARGS)

test: ## install what is missing, build, prepare the guests, then run every test
	$(Q)scripts/setup.sh build guest test
	$(Q)$(MAKE) all tests
	$(Q)$(MAKE) SAN=address all tests
	$(Q)scripts/guest.sh all
	$(Q)scripts/test.sh $(O) $(SUITES)

tests: $(TEST_BINS) $(GUESTS) ## build the test programs

unit: $(O)/mvm-test ## build and run the unit, contract and conformance tests only (T=substring)
	$(Q)$(O)/mvm-test $(T)

san: ## unit tests, fuzz corpora and boots under ASan with UBSan, then TSan (glibc builds)
	$(Q)scripts/setup.sh build guest test
	$(Q)scripts/guest.sh all
	$(Q)for s in address thread; do $(MAKE) SAN=$$s all tests && \
		scripts/test.sh build/san-$$s unit fuzz e2e || exit 1; done

e2e: all $(GUESTS) ## boot guests and look at what they print (T=substring)
	$(Q)scripts/setup.sh guest test
	$(Q)scripts/guest.sh all
	$(Q)python3 tests/e2e/run.py --mvm $(O)/mvm $(T)

soak: all ## a Debian guest with two vCPUs under load that checks itself, for MINUTES (10)
	$(Q)scripts/setup.sh guest test
	$(Q)scripts/guest.sh work
	$(Q)python3 tests/e2e/soak.py --mvm $(O)/mvm $(if $(MINUTES),--minutes $(MINUTES))

bench: all $(GUESTS) ## measure mvm beside QEMU and the host itself (BENCH=names, RUNS=3)
	$(Q)scripts/setup.sh guest bench
	$(Q)scripts/guest.sh kernel bench
	$(Q)python3 tests/bench/run.py --mvm $(O)/mvm $(if $(BENCH),--tests $(BENCH)) $(if $(RUNS),--runs $(RUNS))

bench-tcg: all ## the software CPU beside QEMU's TCG and native, and the bars it has to meet (RUNS=3, SCALE=1)
	$(Q)scripts/setup.sh guest bench
	$(Q)scripts/guest.sh kernel initrd bench
	$(Q)python3 tests/bench/bar.py --mvm $(O)/mvm $(if $(RUNS),--runs $(RUNS)) $(if $(SCALE),--scale $(SCALE))

lint: ## include levels, lines, headers alone, policy reasons, cppcheck, clang-tidy
	$(Q)scripts/setup.sh build lint
	$(Q)$(MAKE) $(O)/inc/.made $(O)/gen/seccomp_filters.h
	$(Q)scripts/lint.sh $(O)

fuzz: $(O)/mvm-oracle ## run every fuzz target for FUZZ_SECONDS (30) with libFuzzer and ASan, and as long random code on both CPUs
	$(Q)scripts/setup.sh build fuzz
	$(Q)$(MAKE) $(FUZZERS)
	$(Q)scripts/fuzz.sh $(O)/fuzz $(FUZZ_SECONDS) $(FUZZ_NAMES)
	$(Q)$(O)/mvm-oracle -t $(FUZZ_SECONDS)

fuzz-cpu: $(O)/mvm-oracle ## random code on the host's CPU and on ours, until a case differs
	$(Q)$(O)/mvm-oracle -e

man: $(O)/mvm.1 ## make the manual page from the option table

deps: ## install the Debian packages that build and tests need (root or sudo)
	$(Q)scripts/setup.sh build guest test lint fuzz bench

guest: ## prepare kernels, initrds and disks under build/guest
	$(Q)scripts/setup.sh guest
	$(Q)scripts/guest.sh all

install: all ## install mvm and its manual page (PREFIX, DESTDIR)
	install -D -m 755 $(O)/mvm $(DESTDIR)$(PREFIX)/bin/mvm
	install -D -m 644 $(O)/mvm.1 $(DESTDIR)$(PREFIX)/share/man/man1/mvm.1
	install -D -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/mvm/LICENSE

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/mvm $(DESTDIR)$(PREFIX)/share/man/man1/mvm.1
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/mvm

clean: ## remove what was built; keep the guests (rm -r build removes those too)
	$(Q)find build -mindepth 1 -maxdepth 1 ! -name guest -exec rm -rf {} + 2>/dev/null || true

dist: ## a source archive of HEAD under build/
	$(Q)mkdir -p $(O)
	git archive --prefix=mvm-$(VERSION)/ -o $(O)/mvm-$(VERSION).tar.gz HEAD

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

# --- missing packages -----------------------------------------------------------------------------
need = $(if $(wildcard $(1)),,$(2))
LIBDIR := /usr/lib/x86_64-linux-gnu
MISSING := $(strip $(if $(shell command -v gcc),,gcc) \
	$(call need,/usr/lib/x86_64-linux-musl/libc.a,musl-tools) \
	$(call need,/usr/include/linux/kvm.h,linux-libc-dev) \
	$(call need,/usr/include/seccomp.h,libseccomp-dev) \
	$(call need,/usr/include/cap-ng.h,libcap-ng-dev) \
	$(call need,$(LIBDIR)/libz.a,zlib1g-dev) \
	$(call need,$(LIBDIR)/liblzma.a,liblzma-dev) \
	$(call need,$(LIBDIR)/liblz4.a,liblz4-dev) \
	$(call need,$(LIBDIR)/libzstd.a,libzstd-dev))

# musl-gcc sees musl's headers only; the kernel's and the libraries' come in through a directory of
# links, so that nothing of glibc leaks in.
INC_LINKS := linux asm-generic video zlib.h zconf.h lzma.h lzma lz4.h lz4hc.h zstd.h zstd_errors.h cap-ng.h
$(O)/inc/.made: Makefile
	$(if $(MISSING),@echo "mvm: packages are missing; run: apt-get install --no-install-recommends $(MISSING)" >&2; exit 1)
	$(Q)rm -rf $(O)/inc && mkdir -p $(O)/inc
	$(Q)for h in $(INC_LINKS); do for d in /usr/include /usr/include/x86_64-linux-gnu; do \
		if [ -e $$d/$$h ]; then ln -s $$d/$$h $(O)/inc/$$h; break; fi; done; done
	$(Q)ln -s /usr/include/x86_64-linux-gnu/asm $(O)/inc/asm
	$(Q)touch $@

# Objects depend on the flags they were made with, not on this file.
$(O)/flags: FORCE
	$(Q)mkdir -p $(O)
	$(Q)echo '$(subst ','\'',$(CC) $(CFLAGS) $(FUZZ_CFLAGS))' | cmp -s - $@ || \
		echo '$(subst ','\'',$(CC) $(CFLAGS) $(FUZZ_CFLAGS))' >$@

# --- compile --------------------------------------------------------------------------------------
$(O)/obj/%.o: %.c $(O)/flags | $(O)/inc/.made
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

$(O)/fuzz-obj/%.o: %.c $(O)/flags
	$(call say,CLANG,$<)
	$(Q)mkdir -p $(@D)
	$(Q)clang $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

# The seccomp programs are compiled from seccomp/policy.def on the build machine and embedded as bytes:
# neither libseccomp nor its start-up time is in mvm.
$(O)/seccomp-gen: tools/seccomp-gen.c seccomp/policy.def seccomp/filter.h | $(O)/inc/.made
	$(call say,HOSTCC,$<)
	$(Q)gcc -std=gnu17 -O1 $(WARN) -Werror -I. -o $@ $< -lseccomp

$(O)/gen/seccomp_filters.h: $(O)/seccomp-gen
	$(call say,GEN,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$< >$@

# What runs once, or for nobody who measures, is made small.
COLD := main.c options.c board.c machine.c kvm_probe.c kvm_cpuid.c state.c $(wildcard boot/*.c seccomp/*.c) \
	$(addprefix tcg/,task.c text.c stats.c perfmap.c) $(addprefix tools/,libc_shim.c printf.c zstd_legacy.c)
ifneq ($(filter -O2,$(OPT)),)
$(call obj,$(COLD)): CFLAGS += -Os
endif

# mvm with any one row of the policy left out.
$(O)/gen/seccomp_without.h: $(O)/seccomp-gen
	$(call say,GEN,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$< --without >$@

# It runs before the canary is set and before the image is relocated.
$(O)/obj/tools/start.o: CFLAGS += -fno-stack-protector

$(O)/obj/seccomp/filter.o $(O)/fuzz-obj/seccomp/filter.o $(O)/obj/tests/without.o: | $(O)/gen/seccomp_filters.h
$(O)/obj/tests/without.o: | $(O)/gen/seccomp_without.h

# --- link -----------------------------------------------------------------------------------------
$(O)/mvm.debug: $(call obj,main.c) $(LIB_OBJ) tools/link.ld
	$(call say,LINK,$@)
	$(Q)$(LINK)

ifeq ($(SAN),)
$(O)/mvm: $(O)/mvm.debug scripts/gate.sh
	$(call say,STRIP,$@)
	$(Q)objcopy --strip-all $< $@
	$(Q)scripts/gate.sh $@
else
$(O)/mvm: $(O)/mvm.debug
	$(Q)cp $< $@
endif

$(O)/mvm-test: $(call obj,$(TEST_SRC)) $(LIB_OBJ)
	$(call say,LINK,$@)
	$(Q)$(LINK)

$(O)/mvm-without: $(call obj,main.c tests/without.c) $(filter-out %/seccomp/filter.o,$(LIB_OBJ))
	$(call say,LINK,$@)
	$(Q)$(LINK) -Wl,--wrap=clock_gettime

$(O)/mvm-oracle: $(call obj,$(ORACLE_SRC)) $(LIB_OBJ)
	$(call say,LINK,$@)
	$(Q)$(LINK)

$(REPLAYS): $(O)/fuzz/%-replay: $(O)/obj/tests/fuzz/%.o $(O)/obj/tests/fuzz/kit.o \
	$(O)/obj/tests/fuzz/replay.o $(LIB_OBJ)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(LINK)

# The run-time's looks at comparisons and jumps use vector registers too.
$(O)/fuzz-obj/tcg/%.o: FUZZ_CFLAGS += -fno-sanitize-coverage=trace-cmp,indirect-calls

$(FUZZERS): $(O)/fuzz/%: $(O)/fuzz-obj/tests/fuzz/%.o $(O)/fuzz-obj/tests/fuzz/kit.o \
	$(O)/fuzz-obj/tools/san_shim.o $(LIB_SRC:%.c=$(O)/fuzz-obj/%.o)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)clang -fsanitize=fuzzer,address -pthread -o $@ $(filter %.o,$^) $(FUZZ_WRAP) $(LIBS)

# The bare guests of the end-to-end tests: ELF64 at 1 MiB, no C library.
$(O)/guest-tests/%.elf: tests/guest/%.S $(wildcard tests/guest/*.h)
	$(call say,GUEST,$<)
	$(Q)mkdir -p $(@D)
	$(Q)gcc -nostdlib -static -no-pie -Wl,-Ttext-segment=0x100000,-z,max-page-size=4096,--build-id=none \
		-o $@ $<

# A Linux program for both sizes of a word.
$(O)/guest-tests/words-%.elf: tests/guest/words.c
	$(call say,GUEST,$@)
	$(Q)mkdir -p $(@D)
	$(Q)gcc -m$* -O2 -msse2 -mfpmath=sse -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
		-fno-tree-loop-distribute-patterns -nostdlib -static -no-pie -Wl,--build-id=none -o $@ $<

$(O)/mvm.1: doc/mvm.1.in $(O)/mvm
	$(call say,GEN,$@)
	$(Q)$(O)/mvm --man-options >$@.options
	$(Q)sed -e 's/@VERSION@/$(VERSION)/' -e '/@OPTIONS@/{r $@.options' -e 'd}' $< >$@
	$(Q)rm $@.options

# Linked tests and fuzzers are kept, so are their objects.
.SECONDARY:
-include $(shell find $(O)/obj $(O)/fuzz-obj -name '*.d' 2>/dev/null)
