# Clients are spread over the children when they come (W23), a child that is nearly full leaves them to others, and one
# that is full hands idle ones over before it closes any (W16).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Descriptors;
use Hybrid::Load qw(start_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm spreads by its own rules" if $mpm ne 'hybrid';

sub server {
    my ($children, %option) = @_;
    my $workers = 8 * $children;
    return Hybrid::Server->new(modules => ['reqtimeout'], level => 'info mpm_hybrid:debug',
        mpm_conf => "StartServers $children\nThreadsPerChild 8\nMaxRequestWorkers $workers\nMinSpareThreads 1\nMaxSpareThreads $workers\n",
        conf => "KeepAliveTimeout 60\nMaxKeepAliveRequests 0\n" . ($option{more} // ''), %option);
}

# How many clients each child has, the fewest first.
sub spread {
    my ($s) = @_;
    return sort { $a <=> $b } map { my $count = grep { $_ eq 'socket tcp' } kinds($_); $count } $s->children;
}

sub kept { scalar grep { my $r = eval { $_->get('/') }; $r && $r->{body} eq "hello\n" } @_ }

subtest 'W23: clients that come now and then' => sub {
    my $s = server(2)->start;
    my @clients;
    for (1 .. 40) {
        push @clients, Hybrid::Client->new($s->port);
        $clients[-1]->get('/');
    }
    my ($few, $many) = spread($s);
    is $few + $many, 40, 'forty are there';
    cmp_ok $many, '<=', 2 * $few, "no child has more than twice as many as the other: $few, $many";
    is kept(@clients), 40, 'all are served';
};

subtest 'W23: many at once' => sub {
    my $s = server(2)->start;
    my @shares;
    for (1 .. 8) {
        my $finish = start_command(20, 'wrk', '-t1', '-c32', '-d1s', $s->url('/'));
        my @spread;
        wait_for(sub { @spread = spread($s); $spread[0] + $spread[-1] >= 32 }, 10);
        push @shares, $spread[0];
        $finish->();
        wait_for(sub { my @left = spread($s); $left[-1] == 0 }, 10);
    }
    # On a machine that has much else to do one child may not get to run in time.
    cmp_ok scalar(grep { $_ >= 8 } @shares), '>=', 6, "of 32 clients each child has a quarter at least: @shares";
};

subtest 'W16: nobody is closed while another child has room' => sub {
    my $s = server(4, limits => { nofile => 160 })->start; # room for about 130 in each
    my @clients;
    for (1 .. 400) {
        push @clients, Hybrid::Client->new($s->port);
        $clients[-1]->get('/');
    }
    my @spread = spread($s);
    is eval { my $sum = 0; $sum += $_ for @spread; $sum }, 400, "all are there: @spread";
    is kept(@clients), 400, 'and are served';
    unlike $s->log, qr/HYB0001/, 'no child was ever full';
};

# mod_lua leaves connections alone (DormantConnections), so that its handler can take descriptors from clients that move.
subtest 'W16: a child that has become full hands idle clients over' => sub {
    my $s = server(2, modules => [qw(reqtimeout lua)], limits => { nofile => 200 }, more => <<'CONF');
LuaScope server
LuaMapHandler /hoard @DOCS@/hoard.lua
CONF
    $s->file('hoard.lua', <<'LUA');
function handle(r)
    hoarded = hoarded or {}
    for i = 1, 200 do
        local file = io.open('/dev/null')
        if not file then break end
        hoarded[#hoarded + 1] = file
    end
    hoarded[#hoarded]:close()
    hoarded[#hoarded] = nil
    r:puts(tostring(#hoarded))
    return apache2.OK
end
LUA
    $s->start;
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 60;
    $_->get('/') for @clients;
    my $hungry = Hybrid::Client->new($s->port);
    cmp_ok $hungry->get('/hoard')->{body}, '>', 50, 'one child has no descriptor left';
    select undef, undef, undef, 1.5; # who was busy a second ago would not be given up in any case
    my @more;
    for (1 .. 20) {
        push @more, Hybrid::Client->new($s->port);
        $more[-1]->get('/');
    }
    my @spread = spread($s);
    is kept(@clients, @more, $hungry), 81, "all are served: @spread";
    unlike $s->log, qr/exit signal|AH00052/, 'and nobody has crashed';
};

done_testing;
