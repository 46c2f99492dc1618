# SPDX-License-Identifier: Apache-2.0
# mod_mpm_hybrid: everything is done from here; the rules are in build/*.mk. `make help` lists the targets.

.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash

# These bring what they need with them, so they must not ask for it before.
SELF_SUFFICIENT := check torture demo bench bench-quick bench-clients deps help fresh-check clean distclean

# Installing takes what is built: root's environment may have another compiler, or none.
JUST_INSTALLS := $(if $(filter-out install uninstall,$(or $(MAKECMDGOALS),all)),,yes)
LOOK := $(if $(JUST_INSTALLS),,FORCE)
# A make that builds a variant is called by one that has looked, and may name another compiler only for that.
LOOK_AT_TOOLS := $(if $(filter command,$(origin VARIANT)),,$(LOOK))
ASKED_CXX := $(if $(filter command environment,$(origin CXX)),$(CXX))

ifneq ($(filter-out $(SELF_SUFFICIENT),$(or $(MAKECMDGOALS),all)),)
include build/config.mk
include build/module.mk
include build/unit.mk
include build/install.mk
include build/tidy.mk
endif

.PHONY: FORCE help deps check torture demo bench bench-quick bench-clients fresh-check clean distclean

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST) build/*.mk

#: all          builds build/out/mod_mpm_hybrid.so (the default)
#: check        installs what is missing, then builds and tests everything (MPM=event tests mpm_event instead)
check:
	@build/install-deps check
	@build/check

#: torture      an hour at most: the whole suite under ASan and UBSan, then under TSan, then a soak of TORTURE_SECONDS (900)
torture:
	@build/install-deps check
	@build/torture

#: demo         installs what is missing, then shows the module at work (DEMO_SECONDS=n: ends by itself)
demo:
	@build/install-deps demo
	@$(MAKE) --no-print-directory all
	@exec bench/demo

#: bench        hybrid, event, worker, prefork and nginx under all loads, a quarter of an hour; needs gnuplot; the result goes
#:              to bench/results, its picture to doc/bench.svg
bench:
	@build/install-deps bench
	@$(MAKE) --no-print-directory all
	@bench/record

#: bench-quick  the most telling of that in two minutes, printed only
bench-quick:
	@build/install-deps bench
	@$(MAKE) --no-print-directory all
	@build/with-build $(CURDIR)/bench/run --rounds=2 --seconds=1 --servers=hybrid,event,nginx \
	    --loads=c1,c8,c32,c128,c512,think,close,nofile,tls,backend

#: bench-clients  slow clients, idle ones, reloads and overload: hybrid, event, nginx, ten minutes; writes to bench/results
bench-clients:
	@build/install-deps bench
	@$(MAKE) --no-print-directory all
	@bench/record-clients

#: fresh-check  the README's commands in a Debian that has nothing but make, which must be as before afterwards; needs
#:              debootstrap and root; DIST=bullseye, bookworm (the default), trixie or sid
DIST ?= bookworm
fresh-check:
	@build/fresh-debian $(DIST)

deps:
	@build/install-deps check

#: clean        removes what was built
clean:
	rm -rf build/out

#: distclean    removes what configure made, too
distclean: clean
	rm -rf configure config.log config.status autom4te.cache build/config.mk build/config.seen

configure: configure.ac
	autoconf

build/config.mk: configure build/config.mk.in $(LOOK_AT_TOOLS)
	@build/configure-when-needed '$(ASKED_CXX)' $(CONFIGURE_ARGS)
