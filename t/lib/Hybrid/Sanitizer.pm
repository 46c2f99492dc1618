# SPDX-License-Identifier: Apache-2.0
package Hybrid::Sanitizer;

# The module under AddressSanitizer and UndefinedBehaviorSanitizer, or under ThreadSanitizer, in the stock httpd:
# SANITIZER=asan|tsan build/run-suite t/... Only the module is instrumented; the runtime is preloaded.
#
#   environment($folder)    # what the server's environment needs, nothing without SANITIZER; reports go to $folder
#   command()               # words to put before the command that starts it
#   built('asan')           # makes the module for a test that is always to run so, says where it is; ('asan', 'planted')
#                           # with faults in it
#   reports($folder)        # what has been found so far: { where it is said => text }
#
# Hybrid::Server asks for all of them, and fails the test when there is a report.

use strict;
use warnings;
use Carp;
use File::Copy;
use Hybrid::Load qw(run_command);

my %RUNTIMES = (asan => [qw(libasan.so libubsan.so)], tsan => ['libtsan.so']);

# httpd and APR are not looked into. What they leave behind when they end is no leak; memory that only they read or write
# is nothing ThreadSanitizer can judge, but it knows of their locks. A child that has to end at once joins no thread, and
# waits for none. A crash is a report, whoever handles signals.
my %OPTIONS = (
    ASAN_OPTIONS  => 'detect_leaks=0:detect_stack_use_after_return=1:handle_segv=2:handle_sigbus=2:abort_on_error=1',
    UBSAN_OPTIONS => 'print_stacktrace=1:abort_on_error=1',
    TSAN_OPTIONS  => 'ignore_noninstrumented_modules=1:report_thread_leaks=0:history_size=4:second_deadlock_stack=1'
        . ':exitcode=0:atexit_sleep_ms=0',
);

sub sanitizer {
    my $name = $ENV{SANITIZER} or return '';
    croak "no sanitizer $name" if !$RUNTIMES{$name};
    return $name;
}

# The runtime that the module was linked with.
sub runtimes {
    my ($module) = @_;
    my $linked = `ldd $module`;
    return map { $linked =~ /^\s*\Q$_\E\S* => (\S+)/m ? $1 : croak "$module has not been linked with $_" }
        @{ $RUNTIMES{ sanitizer() } };
}

sub environment {
    my ($folder) = @_;
    return if !sanitizer();
    return (
        LD_PRELOAD => join(' ', runtimes($ENV{HYBRID_SO})),
        map { ($_ => "log_path=$folder/report:$OPTIONS{$_}") } keys %OPTIONS,
    );
}

# The runtimes of old compilers can't live with as much randomness of addresses as new kernels have.
sub command {
    return if !sanitizer();
    open my $in, '<', '/proc/sys/vm/mmap_rnd_bits' or return;
    return <$in> > 28 ? qw(setarch -R) : ();
}

# Beside the suite's own module, where the server's user can read it.
sub built {
    my ($sanitizer, $what) = @_;
    delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    $what //= 'module';
    my $file = $what eq 'module' ? 'mod_mpm_hybrid.so' : "$what.so";
    my $said = run_command(900, 'make', '--no-print-directory', '-C', $ENV{HYBRID_TOP}, "$what-$sanitizer");
    croak "can't make $what-$sanitizer: $said" if $?;
    (my $so = $ENV{HYBRID_SO}) =~ s{[^/]*$}{$sanitizer-$file};
    copy("$ENV{HYBRID_TOP}/build/out/$sanitizer/$file", $so) or croak "$so: $!";
    return $so;
}

# One for each process, by the process; but UndefinedBehaviorSanitizer beside AddressSanitizer only writes to stderr,
# which is a log.
sub reports {
    my ($folder) = @_;
    my %reports;
    for my $path (glob "$folder/*") {
        my $text = Hybrid::Server::slurp($path);
        my $found = $path =~ m{/report\.\d+$} ? $text : undefined_behaviour($text);
        $reports{$path} = $found if $found;
    }
    return \%reports;
}

# Each with its stack.
sub undefined_behaviour {
    my ($text) = @_;
    return join '', $text =~ /^(.*: runtime error: .*\n(?: +#\d+ .*\n)*)/mg;
}

1;
