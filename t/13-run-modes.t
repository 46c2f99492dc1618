# SPDX-License-Identifier: Apache-2.0
# The ways to run: in one process, in the foreground, detached, and the command line's questions (parity M01-M11, T19).

use strict;
use warnings;
use Test::More;
use Hybrid::Load qw(run_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();

sub server { return Hybrid::Server->new(mpm_conf => "StartServers 2\nThreadsPerChild 4\nMaxRequestWorkers 8", @_) }

sub stat_of {
    my ($pid) = @_;
    my ($ppid, $group, $session) = Hybrid::Server::slurp("/proc/$pid/stat") =~ /^\d+ \(.*\) \S (\d+) (\d+) (\d+)/;
    return { ppid => $ppid, group => $group, session => $session };
}

for my $mode ([ '-X' ], [ '-D', 'ONE_PROCESS' ]) {
    subtest "M01, M02, M06-M09: @$mode" => sub {
        my $s = server(args => $mode)->start;
        is $s->pid, $s->{launched}, 'stays in the foreground';
        is scalar($s->children), 0, 'no children';
        is $s->get('/')->{body}, "hello\n", 'serves';
        $s->signal('USR1');
        $s->signal('HUP');
        is $s->get('/')->{body}, "hello\n", 'and goes on after USR1 and HUP';
        my $pid = $s->pid;
        $s->signal('TERM');
        my $status;
        ok wait_for(sub { return waitpid($pid, 1) == $pid ? defined($status = $?) : 0 }, 10), 'ends by TERM';
        is $status, 0, 'with status 0';
        SKIP: {
            skip 'stock leaves its pid file', 1 if $mpm ne 'hybrid';
            ok !-e $s->root . '/httpd.pid', 'and without its pid file (M07)';
        }
        unlike $s->log, qr/:(?:error|crit|alert|emerg)\]/, 'no error in the log';
        delete $s->{pid};
    };
}

subtest 'M03, M04: NO_DETACH and FOREGROUND' => sub {
    my $s = server(args => [ '-D', 'FOREGROUND' ])->start;
    is $s->pid, $s->{launched}, 'FOREGROUND: the process that was started';
    is stat_of($s->pid)->{session}, stat_of($$)->{session}, 'in our session';
    is scalar($s->children), 2, 'with children';
    $s->stop;
    $s = server(args => [ '-D', 'NO_DETACH' ])->start;
    is $s->pid, $s->{launched}, 'NO_DETACH: the process that was started';
    is stat_of($s->pid)->{session}, $s->pid, 'in a session of its own';
    is scalar($s->children), 2, 'with children';
    $s->stop;
};

subtest 'M05, T19: daemonized' => sub {
    my $s = server()->start;
    isnt stat_of($s->pid)->{ppid}, $$, 'has another parent';
    is stat_of($s->pid)->{session}, $s->pid, 'in a session of its own';
    my @threads = glob "/proc/@{[ $s->pid ]}/task/*";
    my $own = Hybrid::Sanitizer::sanitizer() eq 'tsan'; # ThreadSanitizer has one everywhere
    is scalar(@threads), $own ? 2 : 1, 'the parent has one thread';
    for my $child ($s->children) {
        my $mask = Hybrid::Server::slurp("/proc/$child/status");
        like $mask, qr/^SigIgn:\s+\S*1...$/m, 'a child ignores SIGPIPE (G08)';
    }

    # M10, M11: questions leave the running server alone, and start nothing.
    my @before = $s->children;
    for my $question ('-t', '-S', '-M', '-L', '-V', '-l') {
        my ($status, $output) = $s->run($question);
        is $status, 0, "$question";
    }
    like +($s->run('-V'))[1], qr/Server MPM:\s+$mpm\n\s+threaded:\s+yes .*\n\s+forked:\s+yes \(variable process count\)/,
        '-V names the MPM';
    like +($s->run('-M'))[1], qr/mpm_${mpm}_module \(shared\)/, '-M shows the module';
    is_deeply [ $s->children ], \@before, 'the running server did not notice';
    like +($s->run('-k', 'start'))[1], qr/already running/, '-k start sees that it runs';
    my ($status) = $s->run('-k', 'graceful');
    is $status, 0, '-k graceful';
    ok wait_for(sub { my %b = map { $_ => 1 } @before; !grep { $b{$_} } $s->children }, 15), 'replaces the children';
    $s->run('-k', 'stop');
    ok wait_for(sub { !$s->alive }, 15), '-k stop ends it';
    delete $s->{pid};
};

subtest 'W33, W35: the module is known by a name like others, and says its version' => sub {
    plan skip_all => 'about our module' if $mpm ne 'hybrid';
    my $s = server(modules => ['info'], conf => <<'CONF');
<IfModule mpm_hybrid_module>
    Define BY_IDENTIFIER
</IfModule>
<IfModule mod_mpm_hybrid.c>
    Define BY_FILE
</IfModule>
<Location /info>
    SetHandler server-info
</Location>
CONF
    my ($status, $defines) = $s->run('-t', '-D', 'DUMP_RUN_CFG');
    like $defines, qr/^Define: BY_IDENTIFIER$/m, '<IfModule mpm_hybrid_module>';
    like $defines, qr/^Define: BY_FILE$/m, '<IfModule mod_mpm_hybrid.c>';
    my ($version) = Hybrid::Server::slurp("$ENV{HYBRID_TOP}/configure.ac") =~ /AC_INIT\(\[mod_mpm_hybrid\], \[([\d.]+)\]\)/;
    $s->start;
    like $s->log, qr/HYB0035: mod_mpm_hybrid \Q$version\E, built for Apache 2\.4\.\d+$/m, 'the log names the version at the start';
    $s->graceful;
    is scalar(() = $s->log =~ /HYB0035: /g), 2, 'and at a reload, which loads the module anew';
    like $s->get('/info?list')->{body}, qr/\bmod_mpm_hybrid\.c\b(?!\+)/, 'mod_info lists the module';
    like $s->get('/info?mod_mpm_hybrid.c')->{body}, qr/Module Name:.*mod_mpm_hybrid\.c\b.*RequestReadTimeout/s, 'shows it when asked for it by name';
    like $s->get('/info?providers')->{body}, qr/mpm\b[^\n]*\Q$version\E.*hybrid/s, 'and its version';
    is $s->get('/')->{header}{server}, Hybrid::Server->new(mpm => 'event')->start->get('/')->{header}{server}, 'clients are not told';
};

subtest 'two MPMs' => sub {
    my $s = server();
    my $other = $mpm eq 'event' ? 'worker' : 'event';
    $s->write_conf(Hybrid::Server::load_mpm($other) . $s->conf_text);
    my ($status, $output) = $s->run('-t');
    isnt $status, 0, 'are refused';
    like $output, qr/AH00534: .*More than one MPM loaded/, 'in httpd\'s words';
};

subtest 'a module built for another httpd' => sub {
    plan skip_all => 'about our module' if $mpm ne 'hybrid';
    my $s = server();
    my $copy = $s->root . '/other.so';
    my $so = Hybrid::Server::slurp($ENV{HYBRID_SO});
    (my $record = index $so, pack 'l', 20120211) >= 0 or die 'no module record found';
    substr($so, $record, 4) = pack 'l', 20990101;
    open my $out, '>', $copy or die;
    print $out $so;
    close $out;
    (my $conf = $s->conf_text) =~ s/LoadModule mpm_hybrid_module \S+/LoadModule mpm_hybrid_module $copy/;
    $s->write_conf($conf);
    my ($status, $output) = $s->run('-t');
    isnt $status, 0, 'is refused';
    like $output, qr/is garbled - expected signature|is not compatible with this version of Apache/, 'in httpd\'s words';
};

done_testing;
