# SPDX-License-Identifier: Apache-2.0
# Connections in motion: the server reloads every 0.3 to 3 seconds, and each client is served as if nothing moved: by its
# own deadlines (W11), counts, addresses and certificates, and with what is its own.

use strict;
use warnings;
use IO::Select;
use POSIX ();
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(run_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm ends idle connections at a reload: t/40-reload.t" if $mpm ne 'hybrid';

my $two = "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 64\nMinSpareThreads 8\nMaxSpareThreads 64\n";

sub server {
    my ($modules, $conf, %option) = @_;
    return Hybrid::Server->new(mpm_conf => $two, modules => [ 'reqtimeout', @$modules ], level => 'info mpm_hybrid:debug', conf => $conf, %option);
}

# Reloads the server from now on until the object goes, each after another of these pauses.
sub reloads {
    my ($s, @pauses) = @_;
    my $parent = $s->{pid};
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        for (my $i = 0; kill 0, $parent; $i++) {
            select undef, undef, undef, $pauses[ $i % @pauses ];
            kill 'USR1', $parent;
        }
        POSIX::_exit(0);
    }
    return bless { pid => $pid }, 'Reloads';
}
sub Reloads::DESTROY { my ($self) = @_; local ($?, $!); kill 'KILL', $self->{pid}; waitpid $self->{pid}, 0 }

sub generations { my ($s) = @_; my $count = () = $s->log =~ /AH00489/g; return $count }

# When each of the clients is closed, on the clock of the test; those that aren't after $limit are missing.
sub closed_at {
    my ($limit, @clients) = @_;
    my %at;
    my $end = monotonic() + $limit;
    my %open = map { $_ => $clients[$_] } 0 .. $#clients;
    while (%open && monotonic() < $end) {
        my %number = map { fileno $open{$_}->socket => $_ } keys %open;
        my $ready = IO::Select->new(map { $_->socket } values %open);
        for my $socket ($ready->can_read(0.1)) {
            my $i = $number{ fileno $socket };
            my $n = $open{$i}->fill(0);
            next if !defined $n || $n;
            $at{$i} = monotonic();
            delete $open{$i};
        }
    }
    return \%at;
}

subtest 'W11: KeepAliveTimeout, to the moment' => sub {
    my $s = server([], "KeepAliveTimeout 2500ms\nMaxKeepAliveRequests 0\n")->start;
    my $idle = sub {
        my @clients = map { Hybrid::Client->new($s->port) } 1 .. 20;
        my @begin = map { $_->get('/'); monotonic() } @clients;
        my $closed = closed_at(20, @clients);
        is scalar(keys %$closed), 20, 'all are closed';
        return sort { $a <=> $b } map { $closed->{$_} - $begin[$_] } keys %$closed;
    };
    my @resting = $idle->();
    my $before = generations($s);
    my $reloads = reloads($s, 0.3, 0.7, 0.5);
    my @moving = $idle->();
    undef $reloads;
    cmp_ok generations($s) - $before, '>=', 3, 'while the server has reloaded ' . (generations($s) - $before) . ' times';
    cmp_ok $moving[0], '>', 2.4, "none sooner than its time: $moving[0] s";
    cmp_ok $moving[10], '<', $resting[10] + 0.4, "half of them as if they rested: $moving[10] s, $resting[10] s";
    cmp_ok $moving[-1], '<', $resting[-1] + 3, "the last soon after: $moving[-1] s, $resting[-1] s";
};

subtest 'RequestReadTimeout, from the first byte on' => sub {
    my $s = server([], "RequestReadTimeout header=4\nKeepAliveTimeout 30\n")->start;
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 10;
    $_->get('/') for @clients[ 0 .. 4 ]; # some between two requests, some before the first
    my $before = generations($s);
    my $reloads = reloads($s, 0.3, 1, 0.6);
    my $begin = monotonic();
    $_->send("GET / HTTP/1.1\r\nHo") for @clients;
    my @answers = map { eval { $_->response(limit => 20) } } @clients;
    my $time = monotonic() - $begin;
    undef $reloads;
    cmp_ok generations($s) - $before, '>=', 3, 'the server has reloaded ' . (generations($s) - $before) . ' times';
    is scalar(grep { $_ && $_->{status} == 408 } @answers), 10, 'half requests hear 408';
    cmp_ok $time, '>', 3.9, "not sooner than they may ($time s)";
    cmp_ok $time, '<', 8, 'nor much later';
};

# Each client has a name, and says it in every request; the answer must have it, and what else is the client's.
subtest 'MaxKeepAliveRequests, and the access log' => sub {
    my $s = server([qw(rewrite headers)], <<'CONF')->start;
KeepAliveTimeout 30
MaxKeepAliveRequests 12
RewriteEngine On
Header always set X-You "expr=%{req:X-Me} %{REMOTE_PORT}"
LogFormat "%{X-Me}i %k %a %{remote}p %{c}L %X" motion
CustomLog @ROOT@/logs/motion motion
CONF
    my $before = generations($s);
    my $reloads = reloads($s, 0.3, 0.5, 0.4, 0.3, 3);
    my (%port, $wrong, $lost, %requests, %last);
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 12;
    for my $round (1 .. 13) {
        for my $i (0 .. $#clients) {
            my $client = $clients[$i] or next;
            $port{$i} = $client->socket->sockport;
            my $r = eval { $client->get('/', header => "X-Me: client$i\r\n") };
            if (!$r) { $lost++; undef $clients[$i]; next }
            $requests{$i}++;
            $wrong++ if $r->{body} ne "hello\n" || $r->{header}{'x-you'} ne "client$i $port{$i}";
            next if ($r->{header}{connection} // '') ne 'close';
            $last{$i} = $round;
            undef $clients[$i];
        }
        select undef, undef, undef, 0.25;
    }
    undef $reloads;
    cmp_ok generations($s) - $before, '>=', 3, 'the server has reloaded ' . (generations($s) - $before) . ' times';
    is $wrong // 0, 0, 'each answer is for its own client';
    is $lost // 0, 0, 'none is missing';
    # Whose request was in work just when its child began to end has heard that this was the last answer.
    my %count = map { $_ => $last{$_} // 13 } 0 .. 11;
    my @told = grep { $count{$_} < 13 } 0 .. 11;
    cmp_ok scalar(@told), '<=', 4, "few are told sooner that it has to go: @told";
    is_deeply \%requests, \%count, 'each client has its requests, and no more: the first and twelve kept alive';
    my %log;
    my $read = sub {
        %log = ();
        my $text = Hybrid::Server::slurp($s->root . '/logs/motion');
        push @{ $log{$1} }, $2 while $text =~ /^client(\d+) (.*)$/mg;
        return !grep { @{ $log{$_} || [] } < $count{$_} } 0 .. 11;
    };
    ok wait_for($read, 10), 'all are logged';
    for my $i (0 .. 11) {
        my @lines = map { [ split ' ' ] } @{ $log{$i} || [] };
        my @k = (0 .. $count{$i} - 1);
        $k[-1]-- if @k > 1 && @k < 13; # ap_set_keepalive() counts the last only when it is MaxKeepAliveRequests' last
        is join(',', map { $_->[0] } @lines), join(',', @k), "client $i: %k counts its requests";
        is scalar(grep { $_->[1] ne '127.0.0.1' || $_->[2] != $port{$i} } @lines), 0, "client $i: %a and %{remote}p are its own";
        is join('', map { $_->[4] } @lines), substr('+' x 11 . '-', 0, $count{$i} - 1) . '-', "client $i: %X says so before the last";
    }
};

# Their sessions can't move: they go on where they are until their next answer, and are never somebody else's.
subtest 'TLS clients with certificates' => sub {
    my $s = server([qw(ssl socache_shmcb headers)], Hybrid::Server->tls_vhost(<<'CONF'));
SSLCACertificateFile @ROOT@/ca.pem
    SSLVerifyClient require
    SSLOptions +StdEnvVars
    Header always set X-You "%{SSL_CLIENT_S_DN_CN}s"
CONF
    $s->make_certificate;
    my $root = $s->root;
    my $openssl = sub { run_command(30, 'sh', '-c', "cd $root && openssl $_[0]") };
    $openssl->('req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem');
    for my $i (0 .. 5) {
        $openssl->("req -newkey rsa:2048 -nodes -subj /CN=client$i -keyout client$i.key -out client$i.csr");
        $openssl->("x509 -req -in client$i.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out client$i.pem");
    }
    $s->start;
    my $connect = sub {
        my ($i) = @_;
        my $client = Hybrid::Client->new($s->port(2));
        require IO::Socket::SSL;
        IO::Socket::SSL->start_SSL($client->socket, SSL_verify_mode => 0, SSL_cert_file => "$root/client$i.pem",
            SSL_key_file => "$root/client$i.key", SSL_alpn_protocols => ['http/1.1']) or return;
        return $client;
    };
    my $before = generations($s);
    my $reloads = reloads($s, 0.4, 1, 0.7);
    my ($asked, $wrong, $lost) = (0, 0, 0);
    my @clients = map { $connect->($_) } 0 .. 5;
    for my $round (1 .. 15) {
        for my $i (0 .. 5) {
            $clients[$i] ||= wait_for(sub { $connect->($i) }, 10) or next;
            $asked++;
            my $r = eval { $clients[$i]->get('/') };
            $lost++ if !$r;
            $wrong++ if $r && ($r->{header}{'x-you'} ne "client$i" || $r->{body} ne "hello\n");
            undef $clients[$i] if !$r || ($r->{header}{connection} // '') eq 'close';
        }
        select undef, undef, undef, 0.2;
    }
    undef $reloads;
    cmp_ok generations($s) - $before, '>=', 3, 'the server has reloaded ' . (generations($s) - $before) . ' times';
    is $wrong, 0, "each of $asked answers is for the one whose certificate it was";
    is $lost, 0, 'none is missing';
};

subtest 'PROXY addresses' => sub {
    my $s = server([qw(remoteip headers)], <<'CONF')->start;
KeepAliveTimeout 30
Listen 127.0.0.1:@PORT2@
<VirtualHost 127.0.0.1:@PORT2@>
    RemoteIPProxyProtocol On
    Header always set X-You "expr=%{req:X-Me} %{REMOTE_ADDR}"
</VirtualHost>
<VirtualHost 127.0.0.1:@PORT@>
    RemoteIPHeader X-Forwarded-For
    RemoteIPInternalProxy 127.0.0.1
    Header always set X-You "expr=%{req:X-Me} %{REMOTE_ADDR}"
</VirtualHost>
CONF
    my $connect = sub {
        my ($i) = @_;
        my $client = Hybrid::Client->new($s->port(1 + $i % 2));
        $client->send("PROXY TCP4 192.0.2.$i 192.0.2.200 4711 80\r\n") if $i % 2;
        return $client;
    };
    my $before = generations($s);
    my $reloads = reloads($s, 0.3, 0.5, 1.5);
    my ($asked, $wrong, $lost) = (0, 0, 0);
    my @clients = map { $connect->($_) } 0 .. 11;
    for my $round (1 .. 15) {
        for my $i (0 .. 11) {
            $clients[$i] ||= $connect->($i);
            $asked++;
            my $r = eval { $clients[$i]->get('/', header => "X-Me: client$i\r\nX-Forwarded-For: 192.0.2.$i\r\n") };
            $lost++ if !$r;
            $wrong++ if $r && ($r->{header}{'x-you'} ne "client$i 192.0.2.$i" || $r->{body} ne "hello\n");
            undef $clients[$i] if !$r || ($r->{header}{connection} // '') eq 'close';
        }
        select undef, undef, undef, 0.2;
    }
    undef $reloads;
    cmp_ok generations($s) - $before, '>=', 3, 'the server has reloaded ' . (generations($s) - $before) . ' times';
    is $wrong, 0, "each of $asked answers is for its own client and its address";
    is $lost, 0, 'none is missing';
};

done_testing;
