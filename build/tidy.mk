# SPDX-License-Identifier: Apache-2.0
# What tools say about the source. These are part of make check, but tidy, which is slow.

HEADERS := $(sort $(wildcard include/hybrid/*.hpp))
CXX_FILES := $(SOURCES) $(HEADERS) $(wildcard t/unit/*.c++ t/unit/*.hpp t/fuzz/*.c++ t/fuzz/*.hpp t/faults/*.c++ t/planted/*)
CLANG_FORMAT ?= $(firstword $(foreach f,clang-format-14 clang-format,$(shell command -v $(f))))
CLANG_TIDY ?= $(firstword $(foreach t,clang-tidy clang-tidy-14,$(shell command -v $(t))))

.PHONY: style format headers clang tidy
#: style        format, layers, sizes, message numbers, the entries of doc/parity.md, every header by itself
style: headers
	$(QUIET)case "$$($(CLANG_FORMAT) --version)" in \
	*' version 14.'*) $(CLANG_FORMAT) --dry-run --Werror $(CXX_FILES) ;; \
	*) echo "format not checked: that is clang-format 14's, others differ, here is $$($(CLANG_FORMAT) --version)" ;; \
	esac
	$(QUIET)build/check-layers
	$(QUIET)build/check-sizes
	$(QUIET)build/check-messages
	$(QUIET)build/check-parity

#: format       formats the source
format:
	$(CLANG_FORMAT) -i $(CXX_FILES)

headers: $(HEADERS:include/hybrid/%.hpp=$(OUT)/headers/%.ok)
$(OUT)/headers/%.ok: include/hybrid/%.hpp $(OUT)/flags
	$(call say,HEADER,$<)
	@mkdir -p $(@D)
	$(QUIET)$(CXX) -x c++ $(filter-out -MMD -MP,$(ALL_FLAGS)) -fsyntax-only -include $< /dev/null
	@touch $@

#: clang        builds the module with clang and its thread-safety analysis, too
clang:
	@$(MAKE) --no-print-directory module VARIANT=clang WERROR=-Werror CXX='$(CLANGXX)' \
	    OPTIONAL_FLAGS='-Wthread-safety -Wthread-safety-beta'

#: tidy         clang-tidy over the source
tidy:
	$(QUIET)for f in $(SOURCES); do $(CLANG_TIDY) --quiet $$f -- -x c++ $(filter-out -MMD -MP $(OPTIONAL_FLAGS),$(ALL_FLAGS)); done
