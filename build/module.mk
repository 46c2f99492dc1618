# SPDX-License-Identifier: Apache-2.0
# The module itself. VARIANT is the folder below build/out: release (installed), clang, asan, tsan.

VARIANT ?= release
OUT := build/out/$(VARIANT)
MODULE := $(OUT)/mod_mpm_hybrid.so
SOURCES := mod_mpm_hybrid.c++ $(sort $(wildcard src/*.c++))
OBJECTS := $(SOURCES:%.c++=$(OUT)/%.o)

# The nouns of layer 0 (doc/architecture.md): no header of httpd or APR, so they are tested without a server.
L0 := arrival arriving channel cores deadlines grammar keeper poller scheduler staffing thread_probe watchdog

QUIET = $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)')

OPTIMIZE ?= -O2 -g
# make check says WERROR=-Werror; who only builds must not fail because a newer compiler warns of more.
WERROR ?=
WARNINGS := -Wall -Wextra $(WERROR)
LANGUAGE := -std=c++20 -fPIC -pthread -fno-exceptions -fno-rtti -fvisibility=hidden $(OPTIONAL_FLAGS)
L0_FLAGS = $(LANGUAGE) $(WARNINGS) $(OPTIMIZE) -Iinclude -MMD -MP $(CXXFLAGS)
L0_OBJECTS := $(L0:%=$(OUT)/src/%.o)
ALL_FLAGS = $(L0_FLAGS) $(HTTPD_CPPFLAGS) $(HTTPD_INCLUDES) $(HYBRID_FEATURES) -DHYBRID_VERSION=$(VERSION)

.PHONY: all module
all: build/out/mod_mpm_hybrid.so
module: $(MODULE)

build/out/mod_mpm_hybrid.so: build/out/release/mod_mpm_hybrid.so
	$(QUIET)cp $< $@

# What the objects are made with, so that they are made again when that changes. What was built with -Werror is as good
# without.
FLAGS = $(CXX) $(if $(filter $(CLANGXX),$(CXX)),$(CLANGXX_VERSION),$(CXX_VERSION)) $(filter-out -Werror,$(ALL_FLAGS)) $(LDFLAGS)
$(OUT)/flags: $(LOOK)
	@mkdir -p $(@D)
	@flags='$(subst ','\'',$(strip $(FLAGS)))'; { read -r was; read -r strict; } 2>/dev/null <$@; \
	if [ "$$flags" != "$$was" ] || [ "$${strict:-$(WERROR)}" != "$$strict" ]; then printf '%s\n' "$$flags" '$(WERROR)' >$@; fi

$(MODULE): $(OBJECTS) build/exports.map
	$(call say,LINK,$@)
	$(QUIET)$(CXX) -shared -pthread $(CXXFLAGS) $(LDFLAGS) -Wl,--version-script=build/exports.map -o $@.new $(OBJECTS)
	$(QUIET)build/check-exports $@.new
	$(QUIET)mv $@.new $@

$(L0_OBJECTS): $(OUT)/%.o: %.c++ $(OUT)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ $(L0_FLAGS) -c -o $@ $<

$(filter-out $(L0_OBJECTS),$(OBJECTS)): $(OUT)/%.o: %.c++ $(OUT)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ $(ALL_FLAGS) -c -o $@ $<

-include $(OBJECTS:.o=.d)
