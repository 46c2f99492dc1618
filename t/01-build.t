# SPDX-License-Identifier: Apache-2.0
# Building and installing: make notices what has changed around it, says what it can't do, and leaves nothing behind
# (W10, W35). On a copy of the tree that has been built; `make fresh-check` does all of it in other releases of Debian.

use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use Hybrid::Load qw(run_command);
use Hybrid::Server;

plan skip_all => 'about our module' if Hybrid::Server::mpm() ne 'hybrid';

my $top = $ENV{HYBRID_TOP};
my $tree = tempdir('hybrid-build-XXXXXX', TMPDIR => 1, CLEANUP => 1);
system('cp', '-a', (grep { !m{/(?:build|bench|\.git)$} } glob "$top/{*,.clang-format}"), $tree) == 0 or die 'cp';
mkdir "$tree/build";
system('cp', '-a', (grep { !m{/out$} } glob "$top/build/*"), "$tree/build") == 0 or die 'cp';
mkdir $_ for "$tree/build/out", "$tree/build/out/release";
system('cp', '-a', glob("$top/build/out/*.so"), "$tree/build/out") == 0 or die 'cp';
system('cp', '-a', (grep { !m{/unit$} } glob "$top/build/out/release/*"), "$tree/build/out/release") == 0 or die 'cp';
chmod 0755, $tree;

# As in a shell that nobody has prepared: none of what the make that runs this suite has told its children.
sub make {
    my @arguments = @_;
    return run_command(300, 'env', '-u', 'MAKEFLAGS', '-u', 'MAKELEVEL', '-u', 'CXX', '-u', 'WERROR', 'make', '-C', $tree, @arguments);
}

sub value_of { my ($name) = @_; return Hybrid::Server::slurp("$tree/build/config.mk") =~ /^\Q$name\E := (.*)$/m ? $1 : '' }

make('all'); # only if something has changed since it was built

subtest 'W35: installing and uninstalling' => sub {
    my ($root, $etc) = map { tempdir("hybrid-$_-XXXXXX", TMPDIR => 1, CLEANUP => 1) } qw(root etc);
    mkdir "$etc/mods-available"; # as in a Debian with apache2
    my @where = ("DESTDIR=$root", "SYSCONFDIR=$etc");
    my ($so, $available) = ($root . value_of('LIBEXECDIR') . '/mod_mpm_hybrid.so', "$root$etc/mods-available");
    make('install', @where);
    ok -e $_, "installed: $_" for $so, "$available/mpm_hybrid.load", "$available/mpm_hybrid.conf";
    open my $conf, '>>', "$available/mpm_hybrid.conf" or die $!;
    print $conf "# mine\n";
    close $conf;
    like make('install', @where), qr/was edited and stays as it is; the new one is \S+\.conf\.new$/m, 'what was edited stays';
    ok -e "$available/mpm_hybrid.conf.new", 'the new one is beside it';
    like make('uninstall', @where), qr/was edited and stays$/m, 'so it does when the rest goes';
    is join(' ', map { s{.*/}{}r } glob("$available/*"), glob "$root@{[ value_of('LIBEXECDIR') ]}/*"), 'mpm_hybrid.conf', 'nothing else is left';
};

subtest 'W35: who may not write hears where, and what to do' => sub {
    my @nobody = $> == 0 ? ('setpriv', '--reuid', 'nobody', '--regid', 'nogroup', '--clear-groups') : ();
    my $place = value_of('LIBEXECDIR');
    plan skip_all => "$place is writable" if !@nobody && -w $place;
    for my $what ('install', 'uninstall') {
        my $said = run_command(60, @nobody, 'make', '-C', $tree, $what);
        like $said, qr/^Can't write to \S+: run  sudo make $what  or say another place by DESTDIR$/m, "make $what";
        unlike $said, qr/ -c -o |^install |^rm /m, 'and nothing has been done';
    }
};

subtest 'W10: -Werror is for make check' => sub {
    unlike make('-n', '-B', 'build/out/release/src/child.o'), qr/-Werror/, 'who builds gets warnings';
    like make('-n', '-B', 'WERROR=-Werror', 'build/out/release/src/child.o'), qr/-Werror/, 'errors for who asks for them';
};

subtest 'W10: what other releases of Debian need' => sub {
    my @sources = map { [ $_, Hybrid::Server::slurp($_) ] } glob "$tree/{mod_mpm_hybrid.c++,src/*.c++,include/hybrid/*.hpp}";
    is join(' ', map { $_->[0] } grep { $_->[1] =~ /\bgetpid\(/ && $_->[1] !~ /^#include <unistd\.h>/m } @sources), '', 'getpid() is declared where it is called';
    is join(' ', map { $_->[0] } grep { $_->[1] =~ /^\s*module\s+\w.*^#include/ms || ($_->[0] =~ /hpp$/ && $_->[1] =~ /^\s*module\s+\w/m) } @sources), '', 'no line that is followed by includes looks like a module of C++20';
    unlike Hybrid::Server::slurp("$tree/configure.ac"), qr/^AC_CONFIG_AUX_DIR|^AM_INIT/m, 'configure needs no install-sh';
    is join(' ', grep { Hybrid::Server::slurp($_) =~ /php-?(?:fpm)?[578]\.\d/ } grep { !/01-build/ } glob "$tree/t/*.t"), '', 'no test names one release\'s PHP';
};

my $flags = 'build/out/release/flags'; # what the objects are made with: they depend on it

# A compiler that has this version, and is the one that was configured otherwise.
my $real = (split ' ', value_of('CXX'))[0];
chomp($real = `sh -c 'command -v $real'`);
sub compiler {
    my ($path, $version) = @_;
    open my $out, '>', $path or die "$path: $!";
    print $out "#!/bin/sh\n[ \"\$1\" = --version ] && echo '$version' && exit\nexec $real \"\$@\"\n";
    close $out;
    chmod 0755, $path;
    return $path;
}

subtest 'W35: another compiler' => sub {
    unlike make('all'), qr/^  (?:CXX|LINK) /m, 'nothing is to do in a tree that has been built';
    my $mine = compiler("$tree/mine++", 'mine 1.0');
    make("CXX=$mine", $flags);
    is value_of('CXX'), $mine, 'CXX= is honoured there';
    is value_of('CXX_VERSION'), 'mine 1.0', 'with its version';
    like Hybrid::Server::slurp("$tree/$flags"), qr/^\Q$mine\E mine 1\.0 /, 'that is what objects are made with';
    make($flags);
    is value_of('CXX'), $mine, 'a make that asks for none stays with it';
    compiler($mine, 'mine 2.0');
    make($flags);
    is value_of('CXX_VERSION'), 'mine 2.0', 'another version of it is noticed';
    like Hybrid::Server::slurp("$tree/$flags"), qr/^\Q$mine\E mine 2\.0 /, 'and everything is compiled again';
    my $seen = join ' ', (stat "$tree/build/config.mk")[ 1, 9 ];
    make($flags);
    is join(' ', (stat "$tree/build/config.mk")[ 1, 9 ]), $seen, 'nothing new: nothing is configured';
};

done_testing;
