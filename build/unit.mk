# SPDX-License-Identifier: Apache-2.0
# Unit tests: t/unit/<noun>.c++ is one program that speaks TAP.

UNIT_SOURCES := $(sort $(wildcard t/unit/*.c++))
UNITS := $(UNIT_SOURCES:t/unit/%.c++=$(OUT)/unit/%)

.PHONY: unit asan tsan
#: unit         the unit tests
unit: $(UNITS)
	$(QUIET)prove --quiet --exec '' $(UNITS)

#: asan         the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
#: tsan         the unit tests under ThreadSanitizer
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan := -fsanitize=thread -fno-omit-frame-pointer
sanitized = $(MAKE) --no-print-directory VARIANT=$1 OPTIMIZE='-O1 -g' CXXFLAGS='$(CXXFLAGS) $(SANITIZE_$1)'
asan tsan:
	+@TSAN_OPTIONS=halt_on_error=1 $(call sanitized,$@) unit

# The module for SANITIZER=asan|tsan build/run-suite.
.PHONY: module-asan module-tsan
module-asan module-tsan: module-%:
	+@$(call sanitized,$*) module

# The same with faults in it, for t/16-sanitizers.t.
.PHONY: planted planted-asan planted-tsan
planted-asan planted-tsan: planted-%:
	+@$(call sanitized,$*) planted
planted: $(OUT)/planted.so
$(OUT)/t/planted/faults.o: $(OUT)/%.o: %.c++ $(OUT)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ $(ALL_FLAGS) -c -o $@ $<
$(OUT)/planted.so: $(OBJECTS) $(OUT)/t/planted/faults.o build/exports.map
	$(call say,LINK,$@)
	$(QUIET)$(CXX) -shared -pthread $(CXXFLAGS) $(LDFLAGS) -Wl,--version-script=build/exports.map -o $@ $(filter %.o,$^)
-include $(OUT)/t/planted/faults.d

$(UNITS): $(OUT)/unit/%: t/unit/%.c++ $(L0_OBJECTS)
	$(call say,UNIT,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ $(L0_FLAGS) -It/unit -o $@ $< -x none $(L0_OBJECTS)

# What makes system calls fail in t/15-faults.t, by LD_PRELOAD.
.PHONY: faults
faults: build/out/faults.so
build/out/faults.so: t/faults/faults.c++
	$(call say,FAULTS,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ -std=c++20 -shared -fPIC -O2 -g $(WARNINGS) -fno-exceptions -fno-rtti -U_FORTIFY_SOURCE \
	    -o $@.new $< -ldl
	$(QUIET)mv $@.new $@

#: fuzz         libFuzzer on the look at a client's first bytes, and on what comes from other children, for FUZZ_SECONDS
#:              (60) each; needs clang
.PHONY: fuzz fuzz-arrival fuzz-channel
FUZZ_SECONDS ?= 60
FUZZER = $(CLANGXX) -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude
fuzz: fuzz-arrival fuzz-channel
fuzz-arrival:
	@mkdir -p $(OUT)/fuzz/corpus
	$(QUIET)$(FUZZER) -o $(OUT)/fuzz/arrival -x c++ t/fuzz/arrival.c++ src/arrival.c++ src/grammar.c++
	$(QUIET)cd $(OUT)/fuzz && ./arrival -max_total_time=$(FUZZ_SECONDS) -max_len=40000 -print_final_stats=1 corpus $(CURDIR)/t/fuzz/corpus-arrival
fuzz-channel:
	@mkdir -p $(OUT)/fuzz/corpus-channel
	$(QUIET)$(FUZZER) -o $(OUT)/fuzz/channel -x c++ t/fuzz/channel.c++ src/channel.c++
	$(QUIET)cd $(OUT)/fuzz && ./channel -max_total_time=$(FUZZ_SECONDS) -max_len=300 -print_final_stats=1 corpus-channel

#: fuzz-diff    the same bytes to the module and to mpm_event, which must answer alike, for SECONDS (180); SEED=n repeats a run
.PHONY: fuzz-diff
SECONDS ?= 180
fuzz-diff: all
	$(QUIET)t/fuzz/diff --seconds=$(SECONDS) $(if $(SEED),--seed=$(SEED))

-include $(UNITS:=.d)
