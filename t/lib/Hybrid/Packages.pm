# SPDX-License-Identifier: Apache-2.0
package Hybrid::Packages;

# Programs, modules and files of Debian's packages, whether installed or only unpacked (build/private-packages says why
# some are). Which packages there are is said in build/install-deps.
#
#   program('haproxy')       # a path to start it by: what PATH has; 'php-fpm' also finds php-fpm8.2
#   module('perl')           # the .so for LoadModule; Hybrid::Server's `modules => ['perl']` asks here
#   file('/etc/apache2/mods-available/mpm_event.conf')
#
# All of them die when there is none: a test must not pass because what it needs has not been brought.

use strict;
use warnings;
use Carp;
use Exporter 'import';

our @EXPORT_OK = qw(program module file environment nginx_log);

our $INSTALLED = $ENV{HYBRID_LIBEXECDIR} || '/usr/lib/apache2/modules';
our $UNPACKED  = $ENV{HYBRID_UNPACKED} || ''; # set by build/with-build

sub program {
    my ($name) = @_;
    for my $folder (split /:/, $ENV{PATH}) {
        my ($found) = grep { -f && -x } "$folder/$name", reverse glob("$folder/$name\[0-9]*");
        return $found if $found;
    }
    croak "no program $name: its package belongs into build/install-deps";
}

sub module {
    my ($name) = @_;
    my $file = $name eq 'php' ? 'libphp*.so' : "mod_$name.so";
    my ($found) = grep { -f } map { glob "$_/$file" } $INSTALLED, $UNPACKED ? "$UNPACKED/usr/lib/apache2/modules" : ();
    return $found // croak "no module $name: its package belongs into build/install-deps";
}

sub file {
    my ($path) = @_;
    my ($found) = grep { -e } $path, $UNPACKED ? "$UNPACKED$path" : ();
    return $found // croak "no $path: its package belongs into build/install-deps";
}

# nginx's argument that names its first log, until it has read its configuration: nginx has it since 1.19.5. One that has
# not opens the system's, and says so when it can't.
sub nginx_log {
    my ($path) = @_;
    my $nginx = eval { program('nginx') } // return;
    return `$nginx -h 2>&1` =~ /^ +-e filename/m ? ('-e', $path) : ();
}

# What a program must have in its environment to load unpacked modules; their names, or nothing, give an empty list when
# all are installed.
sub environment {
    my (@modules) = @_;
    return if !$UNPACKED || !grep { index(module($_), $UNPACKED) == 0 } @modules;
    open my $in, '<', "$UNPACKED/run/.libraries" or die "$UNPACKED/run/.libraries: $!";
    chomp(my $libraries = <$in>);
    return (LD_LIBRARY_PATH => $libraries);
}

1;
