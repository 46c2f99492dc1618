# SPDX-License-Identifier: Apache-2.0
package Hybrid::Bench;

# The servers of a bench, the loads, and what one run of a load on a server gave.

use strict;
use warnings;
use FindBin;
use Hybrid::Load qw(run_command);
use Hybrid::Packages;
use Hybrid::Server;
use Hybrid::Wait;
use POSIX ();

our $DESCRIPTORS = 20_000;

my $PIPELINE = <<'LUA';
function init() local r = {} for i = 1, 16 do r[i] = wrk.format() end batch = table.concat(r) end
function request() return batch end
LUA

# name, and what to run: wrk (clients, path, more arguments), h2load (clients, streams, requests) or mix (what holds workers, clients
# beside it). Figures are those of the clients of a small file.
sub loads {
    my @wanted = @_;
    my @all = (
        (map { { name => "c$_", clients => $_, path => '/small' } } 1, 8, 32, 128, 512),
        { name => 'c4096', clients => 4096, path => '/small', times => 4 }, # connecting them takes its time
        { name => 'floor', clients => 4, path => '/small', lua => $PIPELINE }, # httpd's own work: nobody waits for anybody
        { name => 'c1pinned', clients => 1, path => '/small', pinned => 1 },
        { name => 'think', clients => 48, path => '/small', lua => "function delay() return 2 end\n" },
        { name => 'thinkvar', clients => 48, path => '/small', lua => "function delay() return math.random(1, 3) end\n" },
        { name => 'close', clients => 64, path => '/small', arguments => [ '-H', 'Connection: close' ] },
        { name => 'nofile', clients => 64, path => '/nofile' },
        { name => '100k', clients => 32, path => '/large' },
        { name => 'nommap', clients => 128, path => '/nommap/small' },
        { name => 'tls', clients => 32, path => '/small', tls => 1 },
        { name => 'h2c16', clients => 16, streams => 10, path => '/small', tls => 1, requests => 20_000 },
        { name => 'h2c500', clients => 500, streams => 1, path => '/small', tls => 1, requests => 20_000 },
        { name => 'backend', clients => 16, path => '/small', beside => { clients => 120, path => '/backend/' } },
        { name => 'spin', clients => 32, path => '/small', beside => { clients => 2, path => '/spin?ms=100' } },
    );
    return @all if !@wanted;
    my %known = map { $_->{name} => $_ } @all;
    return map { $known{$_} || die "no load $_; there are ", join(' ', map { $_->{name} } @all), "\n" } @wanted;
}

sub new {
    my ($class, %option) = @_;
    my $self = bless {%option}, $class;
    return $self;
}

# The server for a load: plain HTTP has one of its own, without the modules the others need, which cost every request
# something. Started when it is first wanted.
sub server_for {
    my ($self, $load, $name) = @_;
    my $rich = $load->{tls} || $load->{beside} || 0;
    return $self->{server}{$name}{$rich} //= ($name eq 'nginx' ? Hybrid::Bench::Nginx->new : httpd($name, $rich))->start;
}

sub files {
    my ($server) = @_;
    mkdir $server->root . '/docs/nommap';
    $server->file($_, "hi\n") for 'small', 'nommap/small';
    $server->file('large', 'x' x 100_000);
}

# Debian's settings: MPM, <Directory />, access log, ExtendedStatus.
sub httpd {
    my ($name, $rich) = @_;
    my ($mpm, $so) = $name =~ m{/} ? ('hybrid', $name) : $name;
    my $tls_and_backend = Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . <<'CONF';
LogLevel ssl:error http2:error proxy:crit
ProxyPass /backend/ http://127.0.0.1:@PORT3@/
ProxyPass /fpm/ unix:@ROOT@/run/fpm|fcgi://localhost@ROOT@/docs/
CONF
    my $server = Hybrid::Server->new(
        mpm => $mpm, so => $so, level => 'notice', limits => { nofile => $DESCRIPTORS },
        modules => $rich ? [qw(ssl socache_shmcb http2 proxy proxy_http proxy_fcgi)] : [],
        mpm_conf => $mpm eq 'prefork' ? "StartServers 5\nMinSpareServers 5\nMaxSpareServers 10\nMaxRequestWorkers 150\n"
            : Hybrid::Server::debian_mpm_conf(),
        conf => <<'CONF' . ($rich ? $tls_and_backend : ''),
LoadModule hybrid_probe_module @PROBE@
CustomLog @ROOT@/logs/access "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\""
KeepAliveTimeout 5
<Directory />
    Options FollowSymLinks
    AllowOverride None
</Directory>
<Location /nofile>
    SetHandler hybrid-nofile
</Location>
<Location /spin>
    SetHandler hybrid-spin
</Location>
<Directory @ROOT@/docs/nommap>
    EnableMMAP Off
</Directory>
CONF
    );
    (my $text = $server->conf_text) =~ s/\@PROBE\@/$ENV{HYBRID_PROBE_SO}/;
    $server->write_conf($text);
    $server->make_certificate;
    files($server);
    return $server;
}

sub versions {
    my ($self) = @_;
    chomp(my $kernel = `uname -sr`);
    chomp(my $cores = `nproc`);
    my ($httpd) = run_command(5, $Hybrid::Server::HTTPD, '-v') =~ /version: (.*)/;
    my ($nginx) = run_command(5, 'nginx', '-v') =~ /version: (.*)/;
    my ($wrk) = run_command(5, 'wrk', '-v') =~ /^(wrk \S+)/m;
    chomp(my $commit = `git -C $FindBin::Bin describe --always --dirty 2>/dev/null`);
    return ("mod_mpm_hybrid $commit, $httpd, $nginx, $wrk, $kernel, $cores cores");
}

sub can_run {
    my ($self, $load, $server) = @_;
    return 0 if $server eq 'nginx' && $load->{name} eq 'spin'; # it runs no handlers
    return 0 if $server eq 'prefork' && $load->{streams}; # no HTTP/2 there
    return 1;
}

# One run: { rate, cpu (us per request), switches (per request), p50, p99, max (ms), errors, starved }
sub run {
    my ($self, $load, $name) = @_;
    my $server = $self->server_for($load, $name);
    my $beside = $load->{beside};
    my $seconds = $self->{seconds} * ($load->{times} // 1);
    my $backend;
    $backend = Hybrid::Bench::Backend->new($server->port(3)) if $beside && $beside->{path} =~ /backend/;
    pin($server->pid, 1) if $load->{pinned};
    my @before = usage($server->pid);
    my $other = $beside && start_wrk({ %$load, %$beside }, $server, $seconds + 1);
    select undef, undef, undef, 0.5 if $beside; # a head start, part of the load
    my $result = $load->{streams} ? h2load($load, $server) : start_wrk($load, $server, $seconds)->();
    if ($other) {
        my $held = $other->();
        $result->{beside} = $held->{rate};
        $result->{errors} += $held->{errors};
    }
    my @after = usage($server->pid);
    pin($server->pid, 0) if $load->{pinned};
    my $requests = $result->{requests} || 1;
    $result->{cpu} = ($after[0] - $before[0]) * 1e6 / $requests;
    $result->{switches} = ($after[1] - $before[1]) / $requests;
    delete $result->{switches} if $result->{switches} < 0; # processes have ended, and their count with them
    $result->{starved} //= 0;
    return $result;
}

# The median, and in brackets that of the ratios to event's runs.
sub cell {
    my ($self, $what, $runs, $event) = @_;
    my @values = grep { defined } map { $_->{$what} } @$runs;
    return '-' if !@values;
    my $text = sprintf $what eq 'rate' ? '%.0f' : $what eq 'switches' || $what =~ /^p/ ? '%.2f' : '%.1f', median(@values);
    my @ratios = map { $event->[$_]{$what} && defined $runs->[$_]{$what} ? $runs->[$_]{$what} / $event->[$_]{$what} : () } 0 .. $#$runs;
    return @ratios ? sprintf('%s (%.2f)', $text, median(@ratios)) : $text;
}

sub median { my @sorted = sort { $a <=> $b } @_; return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2 }

# Seconds of CPU and context switches of a server's processes so far; those that have ended count for their parent.
sub usage {
    my ($parent) = @_;
    my ($ticks, $switches) = (0, 0);
    for my $pid ($parent, children_of($parent)) {
        my $stat = slurp("/proc/$pid/stat") or next;
        my @fields = split ' ', $stat =~ s/.*\) //sr;
        $ticks += $fields[11] + $fields[12];
        $ticks += $fields[13] + $fields[14] if $pid == $parent;
        for my $task (glob "/proc/$pid/task/*/status") {
            my $status = slurp($task);
            $switches += $1 while $status =~ /ctxt_switches:\s+(\d+)/g;
        }
    }
    return ($ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK()), $switches);
}

sub children_of {
    my ($parent) = @_;
    return map { split ' ', slurp($_) } glob "/proc/$parent/task/*/children";
}

sub slurp { open my $in, '<', $_[0] or return ''; local $/; return <$in> // '' }

sub pin {
    my ($parent, $on) = @_;
    my $cpus = $on ? '1' : '0-' . ($ENV{HYBRID_LAST_CPU} // last_cpu());
    run_command(5, 'taskset', '-apc', $cpus, $_) for $parent, children_of($parent);
}

sub last_cpu { chomp(my $n = `nproc --all`); return $n - 1 }

sub ms {
    my ($text) = @_;
    my %unit = (us => 0.001, ms => 1, s => 1000, m => 60_000);
    return ($text // '') =~ /^([\d.]+)(us|ms|s|m)$/ ? $1 * $unit{$2} : undef;
}

# Starts wrk; the function it returns waits for its end.
sub start_wrk {
    my ($load, $server, $seconds) = @_;
    my $url = sprintf '%s://127.0.0.1:%d%s', $load->{tls} ? ('https', $server->port(2)) : ('http', $server->port), $load->{path};
    my @script = $load->{lua} ? ('-s', $server->file('load.lua', $load->{lua})) : ();
    my @command = ('wrk', '-t1', "-c$load->{clients}", "-d${seconds}s", '--latency', '--timeout', '10s', @script, @{ $load->{arguments} // [] }, $url);
    unshift @command, 'taskset', '-c', '0' if $load->{pinned};
    my $end = Hybrid::Load::start_command($seconds + 20, 'sh', '-c', "ulimit -n $DESCRIPTORS; exec \"\$@\"", 'sh', @command);
    return sub {
        my $text = $end->();
        my $result = Hybrid::Load::wrk_result($text);
        $result->{errors} += $result->{bad};
        ($result->{p50}) = map { ms($_) } $text =~ /^\s+50%\s+(\S+)/m;
        ($result->{p99}) = map { ms($_) } $text =~ /^\s+99%\s+(\S+)/m;
        ($result->{max}) = map { ms($_) } $text =~ /^\s+Latency\s+\S+\s+\S+\s+(\S+)/m;
        return $result;
    };
}

sub h2load {
    my ($load, $server) = @_;
    my $text = run_command(60, 'sh', '-c', "ulimit -n $DESCRIPTORS; exec \"\$@\"", 'sh', 'h2load', '-n', $load->{requests}, '-c', $load->{clients},
        '-m', $load->{streams}, sprintf('https://127.0.0.1:%d%s', $server->port(2), $load->{path}));
    my ($rate) = $text =~ m{finished in \S+, ([\d.]+) req/s};
    my ($done, $failed) = $text =~ /(\d+) succeeded, (\d+) failed/; # failed counts errors and timeouts, too
    my ($max) = $text =~ /time for request:\s+\S+\s+(\S+)/;
    return { rate => $rate, requests => $done, errors => $failed // $load->{requests}, max => ms($max) };
}

package Hybrid::Bench::Nginx;

# nginx with as much of the same as it has: two workers, an access log, keep-alive, the backend.
use strict;
use warnings;
use parent -norequire, 'Hybrid::Server';

sub new {
    my ($class) = @_;
    my $self = Hybrid::Server::new($class, mpm => 'event', limits => { nofile => $Hybrid::Bench::DESCRIPTORS });
    $self->make_certificate;
    Hybrid::Bench::files($self);
    my $root = $self->root;
    my ($port, $tls, $backend) = map { $self->port($_) } 1 .. 3;
    $self->file('../nginx.conf', <<"CONF");
user www-data;
worker_processes auto;
pid $root/nginx.pid;
error_log $root/logs/error;
events { worker_connections 8192; }
http {
    access_log $root/logs/access;
    client_body_temp_path $root/run/body; proxy_temp_path $root/run/proxy; fastcgi_temp_path $root/run/fcgi;
    uwsgi_temp_path $root/run/uwsgi; scgi_temp_path $root/run/scgi;
    sendfile on;
    keepalive_requests 100;
    keepalive_timeout 300s;
    upstream backend { server 127.0.0.1:$backend; keepalive 150; }
    server { # HTTP/2 counts requests where httpd does not
        listen 127.0.0.1:$tls ssl http2;
        keepalive_requests 100000000;
        root $root/docs;
        ssl_certificate $root/cert.pem;
        ssl_certificate_key $root/key.pem;
    }
    server {
        listen 127.0.0.1:$port;
        root $root/docs;
        location /nofile { return 200 "hi\\n"; }
        location /fpm/ { fastcgi_pass unix:$root/run/fpm; fastcgi_param SCRIPT_FILENAME $root/docs/x.php; fastcgi_param REQUEST_METHOD \$request_method;
            fastcgi_param CONTENT_LENGTH \$content_length; }
        location /backend/ { proxy_pass http://backend/; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
CONF
    return $self;
}

sub start {
    my ($self) = @_;
    my $root = $self->root;
    my $log = join ' ', Hybrid::Packages::nginx_log("$root/logs/error");
    system('sh', '-c', "ulimit -n $Hybrid::Bench::DESCRIPTORS; exec nginx -p $root -c $root/nginx.conf $log") == 0 or die "nginx did not start\n";
    Hybrid::Wait::wait_for(sub { $self->pid && $self->get('/small') }, 10) or die "nginx does not answer\n";
    return $self;
}

sub pid { my ($self) = @_; my ($pid) = Hybrid::Bench::slurp($self->root . '/nginx.pid') =~ /(\d+)/; return $self->{pid} = $pid }

package Hybrid::Bench::Fpm;

# php-fpm for a server's /fpm/, as long as this lives.
use strict;
use warnings;

sub new {
    my ($class, $server) = @_;
    my $root = $server->root;
    my $program = Hybrid::Packages::program('php-fpm');
    $server->file('x.php', "<?php echo strlen(file_get_contents('php://input'));\n");
    $server->file('../fpm.conf', "[global]\nerror_log = $root/logs/fpm\n[www]\nuser = www-data\ngroup = www-data\nlisten = $root/run/fpm\n"
            . "listen.mode = 0666\npm = static\npm.max_children = 4\n");
    my $pid = fork // die "fork: $!";
    if (!$pid) { open STDERR, '>', '/dev/null'; exec $program, '-n', '-F', '-y', "$root/fpm.conf" or POSIX::_exit(127) }
    Hybrid::Wait::wait_for(sub { -S "$root/run/fpm" }, 10) or die "php-fpm did not start\n";
    return bless { pid => $pid }, $class;
}

sub DESTROY { my ($self) = @_; local $?; kill 'TERM', $self->{pid}; waitpid $self->{pid}, 0 }

package Hybrid::Bench::Backend;

# The 200 ms backend, bench/slow-backend, as long as this lives.
use strict;
use warnings;

sub new {
    my ($class, $port, $seconds) = @_;
    my $pid = open my $out, '-|', "$FindBin::Bin/slow-backend", $port, $seconds // 0.2 or die "slow-backend: $!";
    my $line = <$out>; # it listens
    die "slow-backend did not start\n" if !defined $line;
    return bless { pid => $pid, out => $out }, $class;
}

sub DESTROY { my ($self) = @_; local $?; kill 'TERM', $self->{pid}; close $self->{out} }

1;
