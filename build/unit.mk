# Unit tests: t/unit/<noun>.c++ is one program that speaks TAP.

UNIT_SOURCES := $(sort $(wildcard t/unit/*.c++))
UNITS := $(UNIT_SOURCES:t/unit/%.c++=$(OUT)/unit/%)

.PHONY: unit asan tsan
#: unit         the unit tests
unit: $(UNITS)
	$(QUIET)prove --quiet --exec '' $(UNITS)

#: asan         the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
asan:
	@$(MAKE) --no-print-directory unit VARIANT=asan OPTIMIZE='-O1 -g' \
	    CXXFLAGS='$(CXXFLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer'

#: tsan         the unit tests under ThreadSanitizer
tsan:
	@TSAN_OPTIONS=halt_on_error=1 $(MAKE) --no-print-directory unit VARIANT=tsan OPTIMIZE='-O1 -g' \
	    CXXFLAGS='$(CXXFLAGS) -fsanitize=thread'

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
	$(QUIET)$(FUZZER) -o $(OUT)/fuzz/arrival -x c++ t/fuzz/arrival.c++ src/arrival.c++
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
