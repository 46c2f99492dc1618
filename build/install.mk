# make install, make uninstall; DESTDIR is honoured. On Debian-style trees a2enmod finds the module afterwards.

INSTALL ?= install
MODS_AVAILABLE := $(SYSCONFDIR)/mods-available
MODS_ENABLED := $(SYSCONFDIR)/mods-enabled

.PHONY: install uninstall
#: install      installs the module where apxs says, and mods-available/mpm_hybrid.* where there is such a folder
install: all
	$(INSTALL) -d '$(DESTDIR)$(LIBEXECDIR)'
	$(APXS) -S LIBEXECDIR='$(DESTDIR)$(LIBEXECDIR)' -i -n mpm_hybrid build/out/mod_mpm_hybrid.so >/dev/null 2>&1
	@test -s '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so'
	@if [ -d '$(MODS_AVAILABLE)' ]; then \
	    build/install-conf '$(DESTDIR)$(MODS_AVAILABLE)'; \
	else \
	    echo 'Now load it in place of the other MPM:  LoadModule mpm_hybrid_module $(LIBEXECDIR)/mod_mpm_hybrid.so'; \
	fi

#: uninstall    removes what install installed; a mpm_hybrid.conf that was edited stays
uninstall:
	@if [ -e '$(DESTDIR)$(MODS_ENABLED)/mpm_hybrid.load' ]; then \
	    echo 'mpm_hybrid is enabled: first  a2dismod mpm_hybrid && a2enmod mpm_event' >&2; exit 1; fi
	rm -f '$(DESTDIR)$(LIBEXECDIR)/mod_mpm_hybrid.so' '$(DESTDIR)$(MODS_AVAILABLE)/mpm_hybrid.load'
	@conf='$(DESTDIR)$(MODS_AVAILABLE)/mpm_hybrid.conf'; \
	if cmp -s debian/mpm_hybrid.conf "$$conf"; then rm -f "$$conf"; \
	elif [ -e "$$conf" ]; then echo "$$conf was edited and stays"; fi
