# SPDX-License-Identifier: Apache-2.0
package Hybrid::Server;

# A private, stock httpd for one test: its own folder, its own free loopback ports, its own logs, ended by the pid that
# was started. Nothing under /etc is read but mime.types.
#
#   my $s = Hybrid::Server->new(
#       mpm      => 'hybrid',                  # default: $ENV{MPM} or hybrid; event, worker, prefork are the stock ones
#       modules  => [qw(ssl http2)],           # beside authz_core, dir, mime, status, and what `conf` makes necessary;
#                                              # also other packages' (perl, wsgi, php): see Hybrid::Packages
#       mpm_conf => "StartServers 1\n...",     # default: Debian's mpm_event.conf
#       conf     => "...",                     # may use @PORT@, @PORT2@, @PORT3@ (free ports), @ROOT@, @DOCS@
#       level    => 'info mpm_hybrid:debug',   # LogLevel; @MPM@ is the MPM's name there
#       args     => ['-X'],                    # more arguments of apache2
#       foreground => 0,                       # 1: don't daemonize (-D FOREGROUND); -X needs it, too
#       probe    => 1,                         # load t/c-modules' mod_hybrid_probe (HybridProbeLog @ROOT@/probe), its
#                                              # handlers at /sleep, /spin, /conn, /crash, /timer, /read and /leak
#       limits   => { nofile => 60 },          # ulimits: nofile, nproc
#       so       => 'FILE',                    # mod_mpm_hybrid.so of another build
#       env      => { LD_PRELOAD => ... },
#       ports    => [1025, 1026, 1027],        # instead of free ones
#       crashes => 'why',                      # its children may crash
#       uncounted => 'why',                    # nobody counts what its processes hold when it is stopped (see settle())
#   );
#   $s->start; $s->get('/'); $s->graceful; $s->stop;
#
# All waits have a limit; what does not come in time dies with the tail of the error log.
#
# A server that is stopped while none of this process's clients is open, or that goes out of scope, has to hold what it
# held after its start, or a test fails. So it does when a child has crashed, or a sanitizer has found something (see
# Hybrid::Sanitizer).

use strict;
use warnings;
use Carp;
use File::Path qw(remove_tree make_path);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX qw(:sys_wait_h);
use Scalar::Util qw(weaken);
use Test::Builder;
use Hybrid::Client;
use Hybrid::Count;
use Hybrid::Packages;
use Hybrid::Sanitizer;
use Hybrid::Wait;

our $HTTPD   = $ENV{HYBRID_HTTPD} || '/usr/sbin/apache2';
our $MODULES = $Hybrid::Packages::INSTALLED;

my $CONFIGURED = qr/AH00489|AH00292|AH00163/; # "configured -- resuming normal operations" of event, worker, prefork

my $DEBIAN_MPM_CONF = <<'CONF';
StartServers            2
MinSpareThreads         25
MaxSpareThreads         75
ThreadLimit             64
ThreadsPerChild         25
MaxRequestWorkers       150
MaxConnectionsPerChild  0
CONF

# The name of the MPM the suite is about.
sub mpm { $ENV{MPM} || 'hybrid' }

# LoadModule lines for an MPM, ours in another file perhaps, and modules.
sub load_mpm {
    my ($mpm, $other) = @_;
    my $so = $other ? $other : $mpm eq 'hybrid' ? ($ENV{HYBRID_SO} || croak 'HYBRID_SO is not set: run the suite by build/run-suite')
                              : "$MODULES/mod_mpm_$mpm.so";
    return "LoadModule mpm_${mpm}_module $so\n";
}

sub debian_mpm_conf { return $DEBIAN_MPM_CONF }

sub load_modules {
    return join '', map {
        my $so = Hybrid::Packages::module($_);
        my $name = $so =~ /libphp7/ ? 'php7' : $_;
        "LoadModule ${name}_module $so\n";
    } @_;
}

my %taken;
my %servers; # that this process has made, by address

# A free loopback port. Not reserved: but below the range the kernel picks from, and not twice in one process.
sub free_port {
    for (1 .. 500) {
        my $port = 10_000 + int rand 20_000;
        next if $taken{$port};
        my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1)
            or next;
        $taken{$port} = 1;
        return $port;
    }
    croak 'no free port';
}

sub new {
    my ($class, %option) = @_;
    my $self = bless {
        mpm => mpm(), modules => [], mpm_conf => $DEBIAN_MPM_CONF, conf => '', args => [],
        level => 'info mpm_@MPM@:debug', %option, owner => $$,
    }, $class;
    $self->{root} = tempdir('hybrid-server-XXXXXX', TMPDIR => 1);
    chmod 0755, $self->{root};
    make_path("$self->{root}/docs", "$self->{root}/logs", "$self->{root}/run");
    chmod 0777, "$self->{root}/logs", "$self->{root}/run", $self->{root};
    open my $probe, '>', "$self->{root}/probe" or die "probe: $!"; # root and the server's user write to it
    close $probe;
    chmod 0666, "$self->{root}/probe";
    $self->{ports} ||= [ map { free_port() } 1 .. 3 ];
    $self->file('index.html', "hello\n");
    $self->write_conf($self->conf_text);
    weaken($servers{0 + $self} = $self);
    return $self;
}

# The configuration as text; write_conf() puts another in its place (for reloads).
sub conf_text {
    my ($self) = @_;
    my $root = $self->{root};
    my @modules = (qw(authz_core dir mime status), @{ $self->{modules} });
    my %seen;
    # mpm_hybrid starts a child for each core at least, so "StartServers 1" alone is not one child.
    my $tokens = $self->{mpm} eq 'hybrid' && $self->{mpm_conf} =~ /^StartServers\s+1$/m ? "RunTokens 1\n" : '';
    my $text = join '', load_mpm(@$self{qw(mpm so)}), load_modules(grep { !$seen{$_}++ } @modules),
        $self->{probe} ? probe_conf($root) : '',
        $> == 0 ? "User www-data\nGroup www-data\n" : '', <<CONF, $tokens, $self->{mpm_conf}, "\n", $self->{conf}, "\n";
ServerRoot $root
DefaultRuntimeDir $root/run
PidFile $root/httpd.pid
Listen 127.0.0.1:\@PORT\@
ServerName localhost
DocumentRoot $root/docs
TypesConfig /etc/mime.types
ErrorLog $root/logs/error
LogLevel $self->{level}
ExtendedStatus On
<Location /server-status>
    SetHandler server-status
</Location>
<Location /hybrid-status>
    SetHandler hybrid-status
</Location>
CONF
    $text =~ s/\@PORT(\d?)\@/$self->{ports}[($1 || 1) - 1]/g;
    $text =~ s/\@ROOT\@/$root/g;
    $text =~ s/\@DOCS\@/$root\/docs/g;
    $text =~ s/\@MPM\@/$self->{mpm}/g;
    return $text;
}

sub probe_conf {
    my ($root) = @_;
    return join '', "LoadModule hybrid_probe_module $ENV{HYBRID_PROBE_SO}\nHybridProbeLog $root/probe\n",
        map { "<Location /$_>\n    SetHandler hybrid-$_\n</Location>\n" } qw(sleep spin conn crash timer read leak);
}

sub write_conf {
    my ($self, $text) = @_;
    open my $out, '>', "$self->{root}/httpd.conf" or die "httpd.conf: $!";
    print $out $text;
    close $out;
    $self->{reconfigured} = 1;
}

# Puts a file below DocumentRoot; returns its path.
sub file {
    my ($self, $name, $content, $mode) = @_;
    my $path = "$self->{root}/docs/$name";
    (my $folder = $path) =~ s{/[^/]+$}{};
    make_path($folder);
    open my $out, '>', $path or die "$path: $!";
    print $out $content;
    close $out;
    chmod $mode // 0644, $path;
    return $path;
}

sub root { $_[0]{root} }
sub port { $_[0]{ports}[ ($_[1] || 1) - 1 ] }
sub url  { 'http://127.0.0.1:' . $_[0]->port . ($_[1] // '/') }

# The directives for a TLS virtual host on @PORT2@; needs the modules ssl and socache_shmcb, and make_certificate().
sub tls_vhost {
    my ($self_or_class, $more) = @_;
    return sprintf <<'CONF', $more // '';
Listen 127.0.0.1:@PORT2@ https
SSLSessionCache shmcb:@ROOT@/run/ssl(512000)
<VirtualHost 127.0.0.1:@PORT2@>
    SSLEngine on
    SSLCertificateFile @ROOT@/cert.pem
    SSLCertificateKeyFile @ROOT@/key.pem
    %s
</VirtualHost>
CONF
}

# A self-signed certificate in the server's folder.
sub make_certificate {
    my ($self) = @_;
    system('openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext basicConstraints=CA:FALSE'
            . " -keyout $self->{root}/key.pem -out $self->{root}/cert.pem 2>/dev/null") == 0
        or die 'openssl req failed';
}

sub command {
    my ($self, @more) = @_;
    return (Hybrid::Sanitizer::command(), $HTTPD, '-d', $self->{root}, '-f', "$self->{root}/httpd.conf", @{ $self->{args} }, @more);
}

# Runs apache2 with `@arguments`, such as '-t', and waits for it: (exit status, everything it printed).
sub run {
    my ($self, @arguments) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        $self->set_environment;
        exec $self->command(@arguments) or POSIX::_exit(127);
    }
    local $/;
    my $text = <$out>;
    close $out;
    my $status = $? >> 8;
    $text //= '';
    my $undefined = Hybrid::Sanitizer::undefined_behaviour($text);
    Test::Builder->new->ok(0, "no undefined behaviour in apache2 @arguments") || Test::Builder->new->diag($undefined) if $undefined;
    return ($status, $text);
}

# In the process that becomes the server.
sub set_environment {
    my ($self) = @_;
    my %environment = (Hybrid::Packages::environment(@{ $self->{modules} }), %{ $self->{env} || {} });
    if ($self->{mpm} eq 'hybrid') {
        my %sanitizer = Hybrid::Sanitizer::environment("$self->{root}/logs");
        $sanitizer{LD_PRELOAD} .= " $environment{LD_PRELOAD}" if %sanitizer && $environment{LD_PRELOAD};
        %environment = (%environment, %sanitizer);
    }
    @ENV{ keys %environment } = values %environment;
}

# Starts the server without waiting for it to be ready; its console output goes to logs/console.
sub launch {
    my ($self) = @_;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$self->{root}/logs/console";
        open STDERR, '>&', \*STDOUT;
        $self->set_environment;
        my @command = $self->command($self->{foreground} ? qw(-D FOREGROUND) : ());
        if (my $limits = $self->{limits}) {
            @command = ('prlimit', (map { "--$_=$limits->{$_}" } sort keys %$limits), @command);
        }
        exec @command or POSIX::_exit(127);
    }
    $self->{launched} = $pid;
    return $pid;
}

# Starts it and waits until it answers.
sub start {
    my ($self) = @_;
    my $pid = $self->launch;
    my $in_place = $self->{foreground} || grep { /^-X$|^ONE_PROCESS|^FOREGROUND|^NO_DETACH/ } @{ $self->{args} };
    if (!$in_place) {
        waitpid $pid, 0;
        $self->fail("apache2 did not start (status $?)") if $?;
        delete $self->{launched};
    }
    wait_for(sub { $self->answers }, 20) or $self->fail('does not answer');
    $self->{pid} = $self->pid;
    $self->wait_log($CONFIGURED) if !$in_place; # all its first children are there
    Hybrid::Count::remember($self);
    $self->{reconfigured} = 0;
    return $self;
}

sub answers {
    my ($self) = @_;
    return if !$self->pid;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port, Timeout => 5) or return;
    print $socket "OPTIONS * HTTP/1.0\r\n\r\n";
    my $line = <$socket>;
    return $line && $line =~ m{^HTTP/1\.1 };
}

# The pid in the PidFile; undef when there is none.
sub pid {
    my ($self) = @_;
    open my $in, '<', "$self->{root}/httpd.pid" or return;
    my $pid = <$in>;
    return if !defined $pid;
    chomp $pid;
    return $pid;
}

sub signal {
    my ($self, $name, $pid) = @_;
    kill $name, $pid || $self->{pid} || $self->pid or $self->fail("can't send SIG$name");
}

sub alive { my ($self, $pid) = @_; return _alive($pid || $self->{pid}) }

sub _alive {
    my ($pid) = @_;
    return 0 if !$pid;
    waitpid $pid, WNOHANG; # it may be a child of ours
    open my $in, '<', "/proc/$pid/stat" or return 0;
    my $stat = <$in> // return 0;
    return $stat !~ /\) Z /;
}

# Waits until every process of the server holds what it held after the start: no descriptor more, no connection whose
# client has gone, no worker at work, no child that hangs at its end. What is left after $limit seconds fails a test, line
# by line. Nothing to say of a server that is not there, is ending, or was made with `uncounted`.
sub settle {
    my ($self, $limit) = @_;
    my $pid = $self->{pid};
    return 1 if $self->{uncounted} || !$pid || !$self->{counted} || $self->{mpm} !~ /^(?:hybrid|event)$/;
    my @surplus;
    my $looks = 0;
    my $settled = wait_for(sub {
        # Each look is a connection, of which MaxConnectionsPerChild lets a child have only some, and one that ends takes
        # a second or two for it.
        select undef, undef, undef, $looks > 15 ? 2.5 : 0.25 if ++$looks > 5;
        return 1 if !_alive($pid) || $self->log =~ /AH00491|AH00492|HYB0016/;
        @surplus = Hybrid::Count::surplus($self);
        return !@surplus;
    }, $limit || 20);
    return 1 if $settled;
    my $test = Test::Builder->new;
    $test->ok(0, 'all that the server holds is accounted for');
    $test->diag($_) for @surplus, 'the log:', $self->log_tail;
    return 0;
}

# Seconds until the server has gone after SIGTERM; dies when it has not after $limit.
sub stop {
    my ($self, $limit, $signal) = @_;
    my $pid = $self->{pid} || $self->pid or return 0;
    $self->settle if !Hybrid::Client::open_to(@{ $self->{ports} });
    my $begin = monotonic();
    kill $signal || 'TERM', $pid;
    wait_for(sub { !_alive($pid) }, $limit || 15) or $self->fail('does not stop');
    delete $self->{pid};
    return monotonic() - $begin;
}

# graceful(): SIGUSR1, returns when the new generation is up and running. graceful_stop(): SIGWINCH.
sub graceful { my ($self) = @_; return $self->_reload('USR1') }
sub restart  { my ($self) = @_; return $self->_reload('HUP') }

sub _reload {
    my ($self, $signal) = @_;
    my $before = () = $self->log =~ /$CONFIGURED/g;
    $self->signal($signal);
    $self->wait_log(sub { my $now = () = $_[0] =~ /$CONFIGURED/g; $now > $before }, 20);
    Hybrid::Count::remember($self, too => 1) if $self->{reconfigured};
    $self->{reconfigured} = 0;
}

# Pids of the children: processes whose parent is the server and that run the same program.
sub children {
    my ($self, $parent) = @_;
    $parent ||= $self->{pid} or return;
    my @pids;
    my $program = readlink "/proc/$parent/exe";
    for my $pid (map { split ' ', slurp($_) } glob "/proc/$parent/task/*/children") {
        push @pids, $pid if (readlink "/proc/$pid/exe" // '') eq ($program // ''); # a zombie has none
    }
    @pids = sort { $a <=> $b } @pids;
    return @pids;
}

sub log {
    my ($self) = @_;
    return slurp("$self->{root}/logs/error");
}

# Waits for a pattern (or a function of the text) in the error log.
sub wait_log {
    my ($self, $pattern, $limit) = @_;
    my $matches = ref $pattern eq 'CODE' ? $pattern : sub { $_[0] =~ $pattern };
    wait_for(sub { $matches->($self->log) }, $limit // 10) or $self->fail("not in the log: $pattern");
}

# Sends $count (1) requests that hold a worker for $ms each, on a connection each; returns the clients when all have one.
# Needs the probe.
sub hold {
    my ($self, $ms, $count) = @_;
    require Hybrid::Client;
    my $asleep = sub { scalar grep { $_->{hook} eq 'sleep' } $self->probe };
    my $want = $asleep->() + ($count //= 1);
    my @clients = map {
        my $client = Hybrid::Client->new($self->port);
        $client->send("GET /sleep?ms=$ms HTTP/1.1\r\nHost: x\r\n\r\n");
        $client;
    } 1 .. $count;
    wait_for(sub { $asleep->() >= $want }, 10) or $self->fail('no worker took it');
    return wantarray ? @clients : $clients[0];
}

# Lines of the probe's log, each { time, pid, tid, hook, and its key=value pairs }.
sub probe {
    my ($self) = @_;
    my @lines;
    for (split /\n/, slurp("$self->{root}/probe")) {
        my ($time, $pid, $tid, $hook, $rest) = split ' ', $_, 5;
        my %pairs = ($rest // '') =~ /(\w+)=(\S*)/g;
        push @lines, { %pairs, time => $time, pid => $pid, tid => $tid, hook => $hook };
    }
    return @lines;
}

# What mpm_event of the same httpd answers to a code of ap_mpm_query(): undef when this httpd has no such question.
sub event_answers {
    my ($code) = @_;
    my $s = Hybrid::Server->new(mpm => 'event', probe => 1, uncounted => 'only asked')->start;
    my ($answer) = grep { $_->{hook} eq 'query' && $_->{when} eq 'pre_mpm' && $_->{code} == $code } $s->probe;
    $answer // $s->fail("was not asked for $code");
    return $answer->{rv} == 0 ? $answer->{result} : undef;
}

# Why no module can wait for input without a worker here (ASYNC_WAITIO, httpd 2.4.63); undef when they can.
sub no_waitio {
    return if defined event_answers(19); # AP_MPMQ_CAN_WAITIO
    return 'this httpd has no state ASYNC_WAITIO: its event does not know the question AP_MPMQ_CAN_WAITIO';
}

sub slurp {
    my ($path) = @_;
    open my $in, '<', $path or return '';
    local $/;
    return <$in> // '';
}

# server-status?auto as a hash; {Scoreboard} is the string. Asks on a connection of its own.
sub status {
    my ($self) = @_;
    my $text = $self->get('/server-status?auto')->{body} or $self->fail('no server-status');
    return { $text =~ /^([^:\n]+): (.*)$/mg };
}

# hybrid-status as a hash: how many connections were opened, and have ended, and why. Asks on a connection of its own.
sub ends {
    my ($self) = @_;
    my $text = $self->get('/hybrid-status')->{body} or $self->fail('no hybrid-status');
    return { $text =~ /^(\w+): (\d+)$/mg };
}

# One GET on a new connection: { status, head, body }.
sub get {
    my ($self, $path, $header) = @_;
    require Hybrid::Client;
    my $client = Hybrid::Client->new($self->port);
    $client->send("GET $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" . ($header // '') . "\r\n");
    return $client->response;
}

sub log_tail {
    my ($self) = @_;
    my @tail = split /\n/, $self->log;
    splice @tail, 0, @tail - 25 if @tail > 25;
    return @tail;
}

sub fail {
    my ($self, $why) = @_;
    croak join "\n", "$self->{mpm} server: $why", slurp("$self->{root}/logs/console"), $self->log_tail, '';
}

# Fails a test for each crash of the module's and each sanitizer's report, once. (A child of mpm_event crashes at its end
# now and then, with a connection that is gone.)
sub inspect {
    my ($self) = @_;
    my $reports = Hybrid::Sanitizer::reports("$self->{root}/logs");
    my $crashes = join '', $self->log =~ /^(.*exit signal (?!Killed|Terminated|Hangup|User).*\n)/mg;
    $reports->{'a child'} = $crashes if $crashes && $self->{mpm} eq 'hybrid';
    for my $where (sort keys %$reports) {
        next if $self->{crashes} || $self->{inspected}{$where}++;
        my $test = Test::Builder->new;
        $test->ok(0, "nothing is wrong within $where");
        $test->diag($reports->{$where});
    }
}

# Ends it, if it is there.
sub end {
    my ($self) = @_;
    my $pid = $self->{pid} || $self->pid || $self->{launched};
    if ($pid && _alive($pid)) {
        my @family = ($pid, $self->children($pid));
        kill 'TERM', $pid;
        wait_for(sub { !_alive($pid) }, 5) or kill 'KILL', @family;
    }
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    delete $servers{0 + $self};
    local ($?, $!, $@);
    Hybrid::Client::close_all(@{ $self->{ports} });
    my $counts = ${^GLOBAL_PHASE} eq 'RUN'; # what lives until then has been counted and inspected below
    $self->settle if $counts;
    $self->end;
    $self->inspect if $counts;
    remove_tree($self->{root}) if !$ENV{HYBRID_KEEP};
}

# Before Test::Builder's own, which sees the failure.
END {
    local ($?, $!, $@);
    for my $server (grep { $_ && $_->{owner} == $$ } values %servers) {
        Hybrid::Client::close_all(@{ $server->{ports} });
        $server->settle;
        $server->end;
        $server->inspect;
    }
}

1;
