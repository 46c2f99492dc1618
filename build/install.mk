# SPDX-License-Identifier: Apache-2.0
# make install, make uninstall; DESTDIR is honoured. On Debian-style trees a2enmod finds the module afterwards.

INSTALL ?= install
MODS_AVAILABLE := $(SYSCONFDIR)/mods-available
MODS_ENABLED := $(SYSCONFDIR)/mods-enabled

PLACES := '$(DESTDIR)$(LIBEXECDIR)' $(if $(wildcard $(MODS_AVAILABLE)),'$(DESTDIR)$(MODS_AVAILABLE)')

.PHONY: install uninstall may-write
#: install      installs the module where apxs says, and mods-available/mpm_hybrid.* where there is such a folder
install: may-write all
	$(INSTALL) -d '$(DESTDIR)$(LIBEXECDIR)'
	$(INSTALL) -m 644 build/out/mod_mpm_hybrid.so '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so.new'
	mv '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so.new' '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so'
	@if [ -d '$(MODS_AVAILABLE)' ]; then \
	    build/install-conf '$(DESTDIR)$(MODS_AVAILABLE)'; \
	else \
	    echo 'Now load it in place of the other MPM:  LoadModule mpm_hybrid_module $(LIBEXECDIR)/mod_mpm_hybrid.so'; \
	fi

#: uninstall    removes what install installed; a mpm_hybrid.conf that was edited stays
uninstall: may-write
	@if [ -e '$(DESTDIR)$(MODS_ENABLED)/mpm_hybrid.load' ]; then \
	    echo 'mpm_hybrid is enabled: first  a2dismod mpm_hybrid && a2enmod mpm_event' >&2; exit 1; fi
	rm -f '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so' '$(DESTDIR)$(MODS_AVAILABLE)/mpm_hybrid.load'
	@conf='$(DESTDIR)$(MODS_AVAILABLE)/mpm_hybrid.conf'; \
	rm -f "$$conf.new"; \
	if cmp -s debian/mpm_hybrid.conf "$$conf"; then rm -f "$$conf"; \
	elif [ -e "$$conf" ]; then echo "$$conf was edited and stays"; fi

# Before anything is built or removed. Of a folder that isn't there yet, the nearest one above it counts.
may-write:
	@for place in $(PLACES); do \
	    while [ ! -e "$$place" ]; do place=$$(dirname "$$place"); done; \
	    if [ ! -w "$$place" ]; then \
	        echo "Can't write to $$place: run  sudo make $(MAKECMDGOALS)  or say another place by DESTDIR" >&2; exit 1; \
	    fi; \
	done
