# varve: one Makefile, not recursive. Sources and tests are found by wildcard,
# so a new file needs no edit here.
#
#   make all          build everything (as make alone does)
#   make deps         install the packages that building and testing need
#   make demo         show the main job live
#   make check        build and run all tests; check-unit, check-integration
#   make fuzz         a short run of each fuzzer (FUZZ_TIME=seconds)
#   make bench        measure, beside the peers
#   make lint         style, layers, sizes
#   make docs         write docs/qmp-reference.md anew
#   make install      programs and manual pages
#   make clean        remove the build folder
#
#   V=1 shows commands; SAN=address,undefined builds with sanitizers;
#   CC=clang picks the compiler; DESTDIR and PREFIX steer `make install`.

SHELL       := /bin/bash
CC          ?= gcc
ifeq ($(origin CC),default)
CC          := gcc
endif
PYTHON      ?= /usr/bin/python3
PREFIX      ?= /usr/local
SAN         ?=
BUILD_ROOT  ?= build
comma       := ,
VARIANT     := $(notdir $(CC))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
BUILD       := $(BUILD_ROOT)/$(VARIANT)
GEN         := $(BUILD_ROOT)/gen
PKGS        := glib-2.0 gio-2.0 gio-unix-2.0 json-c liburing zlib libzstd libnbd
# Not on every architecture.
ISAL        := $(shell pkg-config --exists libisal 2>/dev/null && echo libisal)

ifeq ($(V),1)
Q :=
else
Q := @
endif

# Goals that must work before the packages are there.
NO_PKG_GOALS := deps help demo check clean docs
need_pkgs    := $(if $(MAKECMDGOALS),$(filter-out $(NO_PKG_GOALS),$(MAKECMDGOALS)),all)
ifneq ($(need_pkgs),)
PKG_CFLAGS  := $(shell pkg-config --cflags $(PKGS) $(ISAL)) \
               $(if $(ISAL),-DCONFIG_ISAL)
# nbd/library.c loads libnbd when it is needed.
PKG_LIBS    := $(shell pkg-config --libs $(filter-out libnbd,$(PKGS)) $(ISAL)) \
               -laio
endif

OPT         ?= $(if $(SAN),-O1,-O2)
WARN        := -Wall -Wextra -Werror -Wno-unused-parameter -Wstrict-prototypes \
               -Wmissing-prototypes -Wvla -Wshadow -Wpointer-arith \
               -Wimplicit-fallthrough
CFLAGS_ALL   = -std=gnu11 -g $(OPT) $(WARN) -D_GNU_SOURCE -fno-strict-aliasing \
               -fno-omit-frame-pointer -fno-optimize-sibling-calls \
               -pthread -Iinclude -I. -I$(GEN) \
               $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all) \
               $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL  = -pthread $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

LIB_DIRS    := util aio qapi block hw nbd qmp
LIB_SRC     := $(sort $(foreach d,$(LIB_DIRS),\
                 $(shell find $(d) -name '*.c' 2>/dev/null)))
# util to qmp: the library that every program and test links.
PROGRAMS    := $(sort $(foreach p,varved varve-img varve-io,\
                 $(if $(wildcard tools/$(p)/*.c),$(p))))
TOOLS_COMMON := $(wildcard tools/common/*.c)
UNIT_SRC    := $(sort $(wildcard tests/unit/test_*.c))
UNIT_NAMES  := $(patsubst tests/unit/%.c,%,$(UNIT_SRC))
UNIT_LIB    := $(sort $(wildcard tests/unit/lib/*.c))
BENCH_SRC   := $(sort $(wildcard tests/bench/bench_*.c))
FUZZ_SRC    := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_LIB    := $(sort $(wildcard tests/fuzz/lib/*.c))
SCHEMA      := $(sort $(wildcard qapi/*.json))
GENERATOR   := $(sort $(wildcard qapi/gen/*.py) $(wildcard qapi/*.py))
REFERENCE   := docs/qmp-reference.md
GEN_STAMP   := $(if $(SCHEMA),$(GEN)/.stamp)
GEN_SRC      = $(if $(SCHEMA),$(GEN)/qapi/types.c $(GEN)/qapi/introspect.c \
                 $(GEN)/qmp/commands.c)

# The handlers of commands are reached through weak references, which pull
# nothing out of an archive: qmp/ goes in as one object.
QMP_OBJ      = $(patsubst %.c,$(BUILD)/%.o,$(filter qmp/%,$(LIB_SRC))) \
               $(BUILD)/gen/qmp/commands.o
LIB_OBJ      = $(filter-out $(QMP_OBJ),$(LIB_SRC:%.c=$(BUILD)/%.o) \
                 $(GEN_SRC:$(GEN)/%.c=$(BUILD)/gen/%.o)) $(BUILD)/qmp.o
LIB          = $(BUILD)/libvarve.a

.PHONY: all deps demo check check-unit check-integration bench fuzz lint \
        install help clean build-tests programs docs
.SECONDARY:

all: programs

programs: $(PROGRAMS:%=$(BUILD)/%)

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

deps:
	$(Q)scripts/install-deps

# ---- generated code -------------------------------------------------------
ifneq ($(SCHEMA),)
$(GEN_STAMP): $(SCHEMA) $(GENERATOR)
	@echo "  GEN   qapi"
	$(Q)mkdir -p $(GEN)
	$(Q)$(PYTHON) qapi/gen/main.py --output $(GEN) qapi/schema.json
	$(Q)touch $@
# With a recipe, even this one, make looks at them again in the same run.
$(GEN_SRC) $(GEN)/qapi/types.h $(GEN)/qmp/commands.h: $(GEN_STAMP)
	@:
endif

# The reference page is in git, so that it can be read there; a test checks
# that it is current.
docs:
	$(Q)$(PYTHON) qapi/gen/main.py --reference $(REFERENCE) qapi/schema.json

# ---- objects and programs -------------------------------------------------
# Stacks of suspended coroutines are read by frame pointer, and keep every
# caller; only co_yield() may jump to the switch, which saves a mispredicted
# return.
$(BUILD)/aio/coroutine.o: CFLAGS_ALL += -foptimize-sibling-calls

$(BUILD)/%.o: %.c | $(GEN_STAMP)
	@echo "  CC    $<"
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/gen/%.o: $(GEN)/%.c
	@echo "  CC    $<"
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/qmp.o: $(QMP_OBJ)
	@echo "  LD    $@"
	$(Q)$(CC) -r -nostdlib -o $@ $^

$(LIB): $(LIB_OBJ)
	@echo "  AR    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

# The table of commands refers to its handlers weakly, which takes nothing out
# of an archive: the daemon links them all by name.
HANDLERS_varved = $(filter $(BUILD)/qmp/%.o,$(LIB_OBJ))

define program_rule
$(BUILD)/$(1): $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/$(1)/*.c) $(TOOLS_COMMON)) $$(HANDLERS_$(1)) $(LIB)
	@echo "  LINK  $$@"
	$(Q)$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ $$(PKG_LIBS)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program_rule,$(p))))

UNIT_LIB_OBJ = $(UNIT_LIB:%.c=$(BUILD)/%.o)
$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(UNIT_LIB_OBJ) $(LIB)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS) -lcmocka

$(BUILD)/tests/bench/%: $(BUILD)/tests/bench/%.o $(LIB)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS)

# tests/fuzz/run sets CC and SAN.
FUZZ_WRAP    = 8bit_counters pcs
FUZZ_LIB_OBJ = $(FUZZ_LIB:%.c=$(BUILD)/%.o)
$(BUILD)/libfuzz.a: $(FUZZ_LIB_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/libfuzz.a $(UNIT_LIB_OBJ) $(LIB)
	@echo "  LINK  $@"
	$(Q)$(CC) -fsanitize=fuzzer $(FUZZ_WRAP:%=-Wl,--wrap=__sanitizer_cov_%_init) \
		$(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS) -lcmocka

build-tests: $(UNIT_NAMES:%=$(BUILD)/tests/unit/%)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- running ---------------------------------------------------------------
demo: deps
	$(Q)$(MAKE) --no-print-directory -j2 all
	$(Q)scripts/demo $(BUILD)

check: deps
	$(Q)tests/run all

check-unit:
	$(Q)tests/run unit

check-integration:
	$(Q)tests/run integration

bench: all
	$(Q)tests/bench/run $(BUILD)

fuzz:
	$(Q)tests/fuzz/run $(FUZZ_TIME)

lint:
	$(Q)scripts/lint

install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	$(foreach p,$(PROGRAMS),install -m 755 $(BUILD)/$(p) $(DESTDIR)$(PREFIX)/bin/ &&) true
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(foreach m,$(wildcard docs/man/*.1),install -m 644 $(m) $(DESTDIR)$(PREFIX)/share/man/man1/ &&) true
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 scripts/completion/varve-img $(DESTDIR)$(PREFIX)/share/bash-completion/completions/

clean:
	rm -rf $(BUILD_ROOT)
