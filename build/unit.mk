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

-include $(UNITS:=.d)
